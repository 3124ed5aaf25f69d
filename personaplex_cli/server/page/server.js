/** What the server says outside a conversation, and the token that it may ask for. */

const TOKEN = "personaplex-token";

export class TokenNeeded extends Error {}

/** Keep a token until the tab is closed. */
export function keepToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

/** Whether a token was given before; if it is asked for again, that one was wrong. */
export function hasToken() {
  return sessionStorage.getItem(TOKEN) !== null;
}

/** A token that came with the page's address, which forgets it. */
export function takeTokenFromAddress() {
  const address = new URL(location.href);
  const token = address.searchParams.get("token");
  if (!token) return;
  keepToken(token);
  address.searchParams.delete("token");
  history.replaceState(null, "", address);
}

/** Version, model, voices and personas. Throws TokenNeeded, or TypeError if there is no answer. */
export async function information() {
  const headers = hasToken() ? { Authorization: `Bearer ${sessionStorage.getItem(TOKEN)}` } : {};
  const answer = await fetch(new URL("api/info", document.baseURI), { headers, cache: "no-store" });
  if (answer.status === 401) throw new TokenNeeded();
  if (!answer.ok) throw new TypeError(`${answer.status} ${answer.statusText}`);
  return answer.json();
}

/** What the server does: its `state`, and how many `sessions` there are. Throws TypeError if there is no answer. */
export async function health() {
  const answer = await fetch(new URL("health", document.baseURI), { cache: "no-store" });
  return answer.json();
}

/** Where conversations are held. */
export function conversationUrl() {
  const url = new URL("pcm", document.baseURI);
  url.protocol = url.protocol.replace("http", "ws");
  if (hasToken()) url.searchParams.set("token", sessionStorage.getItem(TOKEN));
  return url;
}

/** Why a conversation did not begin, which browsers do not say: its `kind`, `what` happened, and a `hint`. */
export async function reason() {
  try {
    const { max_minutes: minutes } = await information();
    const { state, sessions } = await health();
    if (state === "loading") return { kind: state, what: "The model is still loading.", hint: "" };
    if (state === "draining") return { kind: "busy", what: "The server shuts down.", hint: "" };
    if (state === "busy") {
      return { kind: state, what: "The server is busy.", hint: `${crowd(sessions)} ${limit(minutes)}`.trim() };
    }
    const hint = "Try again. If this goes on, look at what the server prints.";
    return { kind: "refused", what: "The server refused the connection.", hint };
  } catch (error) {
    if (error instanceof TokenNeeded) return { kind: "token", what: "The server requires a token.", hint: "" };
    const hint = "Check that it is running and that you are online.";
    return { kind: "gone", what: "The server does not respond.", hint };
  }
}

/** How long a conversation may last on this server, as a sentence; nothing if it does not say. */
export function limit(minutes) {
  if (!minutes) return "";
  const [count, unit] = minutes < 1 ? [Math.round(60 * minutes), "second"] : [Math.round(10 * minutes) / 10, "minute"];
  return `A conversation lasts ${count} ${unit}${count === 1 ? "" : "s"} at most here.`;
}

/** How many talk and wait, as a sentence; nothing if nobody does. */
export function crowd({ active, slots, waiting }) {
  if (!active) return "";
  const talk = slots > 1 ? `${active} of ${slots} ${active === 1 ? "talks" : "talk"}` : "One person talks";
  return `${talk}, ${waiting || "nobody"} ${waiting > 1 ? "wait" : "waits"}.`;
}
