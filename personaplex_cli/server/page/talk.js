/** The conversation on the page: joins microphone, session, speaker and words, and shows how it goes. */

import { Gauges } from "./gauges.js";
import { Levels } from "./levels.js";
import { at, notice, save } from "./page.js";
import { Recording } from "./recording.js";
import { conversationUrl, limit, reason } from "./server.js";
import { Session } from "./session.js";
import { Sides } from "./sides.js";
import { Sound, Trouble } from "./sound.js";
import { clock, isoMinute } from "./transcript.js";
import { Words } from "./words.js";

const FRAME = 0.08; // seconds
const WARNING = 5000; // milliseconds that a passing problem is shown
const PAUSES = [2, 4, 8]; // seconds before one tries to reconnect; the last one again and again
const BUSY_PAUSE = 5; // seconds before one asks a server again that has no place
const BY_ITSELF = "This page tries again by itself.";
const SHOWN = {
  microphone: "Asking for the microphone",
  connecting: "Connecting",
  queued: "In line",
  priming: "Getting ready",
  live: "Live",
  waiting: "Trying again in",
  ended: "Ended",
  disconnected: "Disconnected",
};
const OVER = ["ended", "disconnected"];

export class Talk {
  /**
   * @param {function()} onBack to the form: the user wants it, or nothing came of it
   * @param {function()} onToken the server asks for a token now
   */
  constructor(onBack, onToken) {
    this.onBack = onBack;
    this.onToken = onToken;
    this.words = new Words();
    this.sides = new Sides();
    this.gauges = new Gauges();
    this.recording = new Recording();
    this.levels = new Levels(at("history"), { you: at("you-meter"), agent: at("agent-meter") });
    this.mute(false);
    at("mute").addEventListener("click", () => this.mute(!this.muted));
    at("hush").addEventListener("click", () => this.session.send("hush"));
    at("restart").addEventListener("click", () => {
      this.why = "restarted";
      this.session.send("restart");
    });
    at("hang-up").addEventListener("click", () => this.end("ended"));
    at("stop-trying").addEventListener("click", () => this.end("disconnected"));
    at("try-now").addEventListener("click", () => this.retry());
    at("reconnect").addEventListener("click", () => this.start(this.wish));
    at("keep").addEventListener("click", () => saveAs("txt", this.words.file()));
    at("keep-sound").addEventListener("click", () => saveAs("wav", this.recording.file()));
    at("change").addEventListener("click", () => this.back());
    addEventListener("online", () => this.retry());
    setInterval(() => this.tick(), 250);
  }

  /** Talk: asks for the microphone, connects, and goes on until one side ends it. */
  async start(wish) {
    const attempt = (this.attempt = Symbol("attempt"));
    this.wish = wish;
    this.error = null;
    this.answered = false; // by the server, since then
    this.failures = 0; // to connect, in a row
    this.frames = 0;
    this.room = null; // frames of context, how many the prompt takes, whether memory is renewed, once known
    this.forgotten = 0; // frames of the talk
    this.why = "a new conversation";
    this.gauges.clear();
    notice();
    at("who").textContent = wish.title;
    at("agent-name").textContent = wish.name;
    at("how").textContent = wish.config.voice ? `voice ${wish.config.voice}` : "";
    at("microphone").textContent = "";
    this.show("microphone");
    at("who").focus({ preventScroll: true });
    scrollTo(0, 0);
    try {
      const lost = () => notice("The microphone is gone.", "The agent hears silence. Plug it in and start again.");
      const sound = await Sound.open(wish.loudspeakers, (block) => this.block(block), lost);
      if (this.attempt !== attempt) return sound.close();
      this.sound = sound;
    } catch (error) {
      const hint = error instanceof Trouble ? error.hint : "Try another browser.";
      if (this.attempt === attempt) this.fail(error.message, hint);
      return;
    }
    this.sides.begin(this.sound.name);
    this.levels.start();
    this.connect();
    const wakeLock = await navigator.wakeLock?.request("screen").catch(() => null); // a phone that sleeps hears nothing
    if (this.attempt === attempt) this.wakeLock = wakeLock;
    else wakeLock?.release();
  }

  connect() {
    this.show("connecting");
    const config = { ...this.wish.config, sample_rate: this.sound.rate };
    this.session = new Session(conversationUrl(), config, this.hearing());
  }

  /** Connect at once, if one waits for that. */
  retry() {
    if (this.state === "waiting") this.connect();
  }

  /** What to do with each kind of message. */
  hearing() {
    return {
      state: (news) => this.enter(news),
      ready: (talk) => this.begin(talk),
      sound: (pcm) => this.play(pcm),
      transcript: ({ role, text, time }) => this.words[role === "user" ? "addYourWords" : "add"](time, text),
      renewed: ({ time, remembered }) => {
        this.forgotten = Math.round(time / FRAME) - remembered;
      },
      hushed: ({ on }) => this.showHushed(on),
      latency: (news) => this.showPace(news),
      network: (milliseconds) => this.gauges.stage("network", milliseconds),
      slow: () => this.warn("The network is slow.", "Some of your words are lost."),
      error: (error) => this.complain(error),
      closed: () => this.closed(),
    };
  }

  enter({ state, position, reason: why }) {
    this.answered = true;
    if (state === "ended") {
      if (why === "shutdown") return this.lost("The server shuts down.");
      return this.end(this.error ? "disconnected" : "ended");
    }
    if (state === "queued") {
      notice("Others are talking.", `Your turn comes by itself. ${limit(this.wish.minutes)}`, true);
    } else {
      this.sound.clear();
      notice();
    }
    this.show(state, position > 1 ? `Number ${position} in line` : position === 1 ? "Next in line" : "");
  }

  begin({ voice, seed, prompt_frames: prompt, context, memory }) {
    const { title, name } = this.wish;
    const sound = this.recording.seconds;
    const from = sound ? `, ${this.why}, from ${clock(sound)} of the sound` : "";
    this.words.begin(name, `${title}, voice ${voice}, seed ${seed}, ${isoMinute()}${from}`, this.why);
    this.frames = 0;
    this.room = { context, prompt, memory };
    this.forgotten = 0;
    this.showHushed(false);
    this.sides.quiet();
    at("how").textContent = `voice ${voice}`;
    this.gauges.figure("seed", seed);
    this.gauges.figure("sound", `${this.sound.rate} Hz`);
  }

  /** What the microphone heard and the speaker said in the last moment. */
  block(block) {
    const live = this.state === "live";
    if (this.muted) block = { ...block, you: new Int16Array(block.you.length), heard: 0, peak: 0 };
    if (live) {
      this.session.say(block.you);
      this.recording.add(this.sound.rate, block.you, block.agent);
      this.gauges.buffer(1000 * block.waiting);
      this.gauges.figure("underruns", block.underruns);
    }
    this.levels.add(block.heard, block.said);
    this.sides.add(block, this.muted);
    if (live) this.note(this.sides.spoken);
  }

  /** Write down when you speak, and for how long. */
  note(spoken) {
    if (spoken) this.words.addYours(this.frames * FRAME, spoken.seconds, spoken.level);
    else if (!this.sides.you.speaking) this.words.endYours();
  }

  play(pcm) {
    this.failures = 0;
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

  showPace({ step_ms: step, max_step_ms: longest }) {
    for (const [stage, milliseconds] of Object.entries(this.sound.delays)) this.gauges.stage(stage, milliseconds);
    this.gauges.stage("server", step);
    this.gauges.figure("longest step", `${Math.round(longest)} ms`);
    this.gauges.showDelay();
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

  /** The connection was closed without a goodbye, or never opened. */
  async closed() {
    const attempt = this.attempt;
    if (this.error) return this.end("disconnected");
    if (this.state !== "connecting") return this.lost("The connection was lost.");
    const { kind, what, hint } = await reason();
    if (this.attempt !== attempt || this.state !== "connecting") return;
    if (kind === "busy" || kind === "loading") return this.wait(what, hint, BUSY_PAUSE);
    if (kind !== "token" && (this.answered || this.failures)) return this.lost(what, hint);
    this.fail(what, hint);
    if (kind === "token") this.onToken();
  }

  /** The server is gone: try to reconnect, later and later. */
  lost(what, hint = "") {
    this.why = "reconnected";
    this.wait(what, hint, PAUSES[Math.min(this.failures++, PAUSES.length - 1)]);
  }

  /** Try again by itself after so many seconds. */
  wait(what, hint, seconds) {
    this.session.close();
    this.error = null;
    this.retryAt = performance.now() + 1000 * seconds;
    this.words.settle();
    this.sides.quiet();
    this.showHushed(false);
    notice(what, `${hint} ${BY_ITSELF}`, true);
    const first = at("trying").hidden;
    this.show("waiting");
    if (first) at("try-now").focus({ preventScroll: true });
  }

  /** Nothing came of it. */
  fail(message, hint) {
    this.end("disconnected");
    notice(message, hint);
  }

  end(state) {
    if (OVER.includes(this.state)) return;
    clearTimeout(this.warned);
    this.attempt = null;
    this.session?.close();
    this.sound?.close();
    this.wakeLock?.release();
    this.session = this.sound = this.wakeLock = null;
    if (!this.error) notice();
    this.levels.stop();
    this.sides.quiet();
    this.words.settle();
    this.mute(false);
    this.showHushed(false);
    this.show(state);
    if (!this.recording.samples) return this.back(false); // nobody has talked
    at("kept").textContent = this.recording.full
      ? "Only the first two hours of the sound are kept; they are only in this tab until you save them."
      : "The talk is only in this tab until you save it.";
    at("reconnect").textContent = state === "ended" ? "Talk again" : "Reconnect";
    at("reconnect").focus({ preventScroll: true });
  }

  /** To the form, and forget the talk. */
  back(silently = true) {
    if (silently) notice();
    this.words.clear();
    this.recording = new Recording();
    this.onBack();
  }

  show(state, text = "") {
    const over = OVER.includes(state);
    const trying = state === "waiting" || (state === "connecting" && at("trying").hidden === false);
    this.state = state;
    at("talk").dataset.state = state;
    at("talk").classList.toggle("busy", !over && state !== "live");
    at("state").textContent = text || SHOWN[state] || state;
    document.title = over ? "personaplex" : `${at("state").textContent} · personaplex`; // for who waits elsewhere
    at("controls").hidden = over || trying;
    at("trying").hidden = !trying;
    at("after").hidden = !over;
    for (const control of ["hush", "restart"]) at(control).disabled = state !== "live";
    this.tick();
  }

  /** Show the time, and try again when it is time for that. */
  tick() {
    const { context, prompt, memory } = this.room ?? {};
    const left = Math.ceil((this.retryAt - performance.now()) / 1000);
    const over = OVER.includes(this.state);
    if (this.state === "waiting") {
      if (left <= 0) return this.retry();
      at("clock").textContent = `${left} s`;
    } else {
      const seconds = over ? this.recording.seconds : this.state === "live" ? this.frames * FRAME : 0;
      at("clock").textContent = seconds ? clock(seconds) : "";
    }
    at("memory").hidden = !context;
    if (memory) this.gauges.showRemembered(this.frames - this.forgotten, this.frames);
    else if (context) this.gauges.showTimeLeft(context - prompt - this.frames, context);
  }
}

function saveAs(ending, blob) {
  save(blob, `personaplex-${isoMinute().replaceAll(/[ :]/g, "-")}.${ending}`);
}
