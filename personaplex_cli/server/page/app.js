/** The page: one thing at a time is shown. What the server offers, what was chosen, the conversation. */

import { listen } from "./keys.js";
import { at, notice } from "./page.js";
import { crowd, hasToken, health, information, keepToken, takeTokenFromAddress, TokenNeeded } from "./server.js";
import { Setup } from "./setup.js";
import { insecure } from "./sound.js";
import { Talk } from "./talk.js";

const VIEWS = ["unreachable", "locked", "setup", "talk"];
const RECORDED = "This server records conversations: both voices and the words.";
const LOOK_EVERY = 10_000; // milliseconds between two looks at how many talk

function show(view) {
  for (const each of VIEWS) at(each).hidden = each !== view;
  document.body.dataset.view = view;
  showCrowd();
}

/** Beside the form, how many talk; nothing if nobody does, or if the server does not say. */
async function showCrowd() {
  if (at("setup").hidden || document.hidden) return;
  const { sessions } = await health().catch(() => ({}));
  at("crowd").textContent = sessions ? crowd(sessions) : "";
}

const back = () => {
  show("setup");
  at("start").focus({ preventScroll: true });
};
const talk = new Talk(back, () => lock());
const setup = new Setup((wish) => {
  show("talk");
  talk.start(wish);
});

async function open() {
  try {
    const offer = await information();
    at("about").textContent = `${offer.model.split("/").at(-1)} · ${offer.personaplex}`;
    at("note").textContent = [offer.note, offer.recorded && RECORDED].filter(Boolean).join(" ");
    at("note").hidden = !at("note").textContent;
    at("untranscribed").hidden = offer.transcribed;
    setup.offer(offer);
    notice();
    show("setup");
  } catch (error) {
    if (error instanceof TokenNeeded) return lock();
    notice("The server does not respond.", "Check that it is running.");
    show("unreachable");
    return;
  }
  const trouble = insecure();
  at("start").disabled = Boolean(trouble);
  if (trouble) notice(trouble.message, trouble.hint);
}

function lock() {
  notice(...(hasToken() ? ["That token is wrong.", "Check it and try again."] : []));
  show("locked");
  at("token").select();
}

at("locked").addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken(at("token").value.trim());
  open();
});
at("again").addEventListener("click", open);
document.addEventListener("visibilitychange", showCrowd);
setInterval(showCrowd, LOOK_EVERY);
listen();
takeTokenFromAddress();
open();
