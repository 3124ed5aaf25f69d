/** The conversation on the page: joins microphone, session, speaker and words, and shows how it goes. */

import { Levels } from "./levels.js";
import { at, notice } from "./page.js";
import { conversationUrl, reason } from "./server.js";
import { Session } from "./session.js";
import { Sound, Trouble } from "./sound.js";
import { clock } from "./transcript.js";
import { Words } from "./words.js";

const FRAME = 0.08; // seconds
const FADING = 30; // seconds before the persona is lost that the page begins to warn
const WARNING = 5000; // milliseconds that a passing problem is shown
const SHOWN = {
  microphone: "Asking for the microphone",
  connecting: "Connecting",
  queued: "In line",
  priming: "Getting ready",
  live: "Live",
  ended: "Ended",
  disconnected: "Disconnected",
};
const OVER = ["ended", "disconnected"];

export class Talk {
  /** @param {function()} onChange the user wants to choose again */
  constructor(onChange) {
    this.words = new Words();
    this.levels = new Levels(at("history"), { you: at("you-meter"), agent: at("agent-meter") });
    this.mute(false);
    at("mute").addEventListener("click", () => this.mute(!this.muted));
    at("hush").addEventListener("click", () => this.session.send("hush"));
    at("restart").addEventListener("click", () => this.session.send("restart"));
    at("hang-up").addEventListener("click", () => this.end("ended"));
    at("reconnect").addEventListener("click", () => this.start(this.wish));
    at("keep").addEventListener("click", () => this.words.save());
    at("change").addEventListener("click", () => {
      this.words.clear();
      notice();
      onChange();
    });
    document.addEventListener("keydown", press);
    setInterval(() => this.showTime(), 250);
  }

  /** Talk: asks for the microphone, connects, and goes on until one side ends it. */
  async start(wish) {
    const attempt = (this.attempt = Symbol("attempt"));
    this.wish = wish;
    this.error = null;
    this.frames = 0;
    this.room = null; // frames of context, and how many the prompt takes, once known
    notice();
    at("who").textContent = wish.title;
    at("how").textContent = wish.config.voice ? `voice ${wish.config.voice}` : "";
    for (const figure of ["step", "network", "cushion"]) at(figure).textContent = "–";
    this.show("microphone");
    at("who").focus({ preventScroll: true });
    scrollTo(0, 0);
    try {
      const lost = () => notice("The microphone is gone.", "The agent hears silence. Plug it in and start again.");
      const sound = await Sound.open(wish.loudspeakers, (block) => this.block(block), lost);
      if (this.attempt !== attempt) return sound.close();
      this.sound = sound;
    } catch (error) {
      if (this.attempt === attempt) this.fail(error);
      return;
    }
    this.show("connecting");
    this.levels.start();
    this.session = new Session(conversationUrl(), { ...wish.config, sample_rate: this.sound.rate }, this.hearing());
    const wakeLock = await navigator.wakeLock?.request("screen").catch(() => null); // a phone that sleeps hears nothing
    if (this.attempt === attempt) this.wakeLock = wakeLock;
    else wakeLock?.release();
  }

  /** What to do with each kind of message. */
  hearing() {
    return {
      state: ({ state, position }) => this.enter(state, position),
      ready: (talk) => this.begin(talk),
      sound: (pcm) => this.play(pcm),
      transcript: ({ text, time }) => this.words.add(time, text),
      hushed: ({ on }) => this.showHushed(on),
      latency: ({ step_ms }) => this.showStep(step_ms),
      network: (milliseconds) => (at("network").textContent = inMilliseconds(milliseconds)),
      slow: () => this.warn("The network is slow.", "Some of your words are lost."),
      error: (error) => this.complain(error),
      closed: (event) => this.hungUp(event),
    };
  }

  enter(state, position) {
    if (state === "ended") return this.end(this.error ? "disconnected" : "ended");
    if (state === "priming") this.sound.clear();
    this.show(state, position > 1 ? `${position} before you` : position === 1 ? "Next in line" : "");
  }

  begin({ voice, seed, prompt_frames, context }) {
    this.frames = 0;
    this.room = { context, prompt: prompt_frames };
    this.showHushed(false);
    at("how").textContent = `voice ${voice} · seed ${seed}`;
    this.words.begin(`${this.wish.title}, voice ${voice}, seed ${seed}, ${new Date().toLocaleString()}`);
  }

  /** What the microphone heard and the speaker said in the last moment. */
  block({ pcm, heard, said, underruns, cushion }) {
    const live = this.state === "live";
    if (live) this.session.say(this.muted ? new ArrayBuffer(pcm.byteLength) : pcm);
    this.levels.add(this.muted ? 0 : heard, said);
    if (live) at("cushion").textContent = inMilliseconds(1000 * cushion);
    at("underruns").textContent = underruns;
  }

  play(pcm) {
    this.frames += pcm.byteLength / Int16Array.BYTES_PER_ELEMENT / this.sound.rate / FRAME;
    this.sound.play(pcm);
  }

  mute(muted) {
    this.muted = muted;
    at("mute").ariaPressed = String(muted);
    at("mute").classList.toggle("set", muted);
    at("muted").hidden = !muted;
  }

  showHushed(hushed) {
    at("hush").classList.toggle("set", hushed);
    at("hushed").hidden = !hushed;
  }

  complain({ message, hint }) {
    this.error = message;
    notice(message, hint);
  }

  /** Say something that passes. */
  warn(what, hint) {
    if (!this.error) notice(what, hint);
    clearTimeout(this.warned);
    this.warned = setTimeout(() => this.error || notice(), WARNING);
  }

  /** The server closed the connection, or the network did. */
  async hungUp({ reason: word }) {
    const answered = this.state !== "connecting";
    this.end("disconnected");
    if (this.error) return;
    const why = word || answered ? ["The connection was lost.", word] : await reason();
    if (this.state === "disconnected") notice(...why);
  }

  fail(error) {
    this.end("disconnected");
    notice(error.message, error instanceof Trouble ? error.hint : "Try another browser.");
  }

  end(state) {
    if (OVER.includes(this.state)) return;
    clearTimeout(this.warned);
    this.attempt = null;
    this.session?.close();
    this.sound?.close();
    this.wakeLock?.release();
    this.session = this.sound = this.wakeLock = null;
    this.levels.stop();
    this.mute(false);
    this.showHushed(false);
    const never = state === "disconnected" && !this.room;
    this.show(state, never ? "Not connected" : "");
    at("reconnect").textContent = never ? "Try again" : state === "ended" ? "Talk again" : "Reconnect";
    at("keep").disabled = this.words.transcript.empty;
    at("reconnect").focus({ preventScroll: true });
  }

  show(state, text = "") {
    this.state = state;
    const over = OVER.includes(state);
    at("talk").dataset.state = state;
    at("talk").classList.toggle("busy", !over && state !== "live");
    at("state").textContent = text || SHOWN[state] || state;
    at("controls").hidden = over;
    at("after").hidden = !over;
    for (const control of ["hush", "restart"]) at(control).disabled = state !== "live";
    this.showTime();
  }

  showTime() {
    const { context, prompt } = this.room ?? {};
    at("clock").textContent = this.frames ? clock(this.frames * FRAME) : "";
    at("memory").hidden = !context;
    if (!context) return;
    const used = Math.min(1, (prompt + this.frames) / context);
    const left = (context - prompt - this.frames) * FRAME;
    at("memory").classList.toggle("warning", left < FADING);
    at("memory-left").textContent = left > 0 ? `persona fades in ${clock(left)}` : "the persona has faded: restart";
    at("memory-bar").ariaValueNow = String(Math.round(100 * used));
    at("memory-bar").firstElementChild.style.transform = `scaleX(${used})`;
  }

  showStep(milliseconds) {
    at("step").textContent = inMilliseconds(milliseconds);
    at("step").parentElement.classList.toggle("over", milliseconds > 1000 * FRAME);
  }
}

/** A key stands for the button that is marked with it, if that can be pressed now. */
function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target.matches?.("input, select, textarea")) return;
  const button = [...document.querySelectorAll("[aria-keyshortcuts]")].find(
    (each) => each.getAttribute("aria-keyshortcuts") === event.key.toLowerCase() && each.checkVisibility(),
  );
  button?.click();
}

function inMilliseconds(milliseconds) {
  if (milliseconds < 1) return "<1 ms"; // some browsers' clocks are no finer
  return `${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)} ms`;
}
