/** What both said, on the page: it follows what is said, unless the reader scrolled up. */

import { at, make } from "./page.js";
import { clock, Transcript } from "./transcript.js";

const NEAR = 48; // pixels from the end that count as being there
const FRESH = 1500; // milliseconds that the newest word stands out
const STROKE = 4; // pixels from one level of your voice to the next
const MOST = 48; // levels that are drawn
const HEIGHT = 20; // pixels

export class Words {
  constructor() {
    this.list = at("words");
    this.list.addEventListener("scroll", () => {
      this.following = this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < NEAR;
      at("newest").hidden = this.following;
    });
    new ResizeObserver(() => this.keepUp()).observe(this.list);
    at("newest").addEventListener("click", () => this.follow());
    this.clear();
  }

  clear() {
    this.settle();
    this.transcript = new Transcript();
    this.places = new Map(); // turn: the element that shows what was said
    this.list.replaceChildren();
    this.following = true;
    at("newest").hidden = true;
  }

  /** A conversation begins; a line is drawn under the one before, which says why. */
  begin(name, title, why) {
    this.settle();
    this.yours = null;
    if (!this.transcript.empty) this.list.append(make("h3", {}, why));
    this.transcript.begin(name, title);
    this.keepUp();
  }

  /** The agent says a piece of a word, or more. */
  add(time, piece) {
    const turn = this.transcript.add(time, piece);
    if (!turn.text) return;
    if (this.fresh !== turn) this.settle();
    this.fresh = turn;
    const [, before, newest] = /^(.*?)(\S*)$/s.exec(turn.text);
    this.place(turn).replaceChildren(before, make("b", {}, newest));
    clearTimeout(this.settling);
    this.settling = setTimeout(() => this.settle(), FRESH);
    this.keepUp();
  }

  /** You have been speaking for so many seconds, which end now, at `time`; the level is from 0 to 1. */
  addYours(time, seconds, level) {
    if (!this.yours) this.yours = { turn: this.transcript.addYours(Math.max(0, time - seconds)), levels: [] };
    const { turn, levels } = this.yours;
    if (seconds > turn.seconds) levels.push(level); // else it is the pause at the end
    turn.seconds = seconds;
    if (!turn.text) this.place(turn).replaceChildren(drawing(levels), `${seconds.toFixed(1)} s`);
    this.keepUp();
  }

  /** The server has written down a word of yours. */
  addYourWords(time, piece) {
    const turn = this.transcript.addYourWords(time, piece);
    this.place(turn).textContent = turn.text;
    this.keepUp();
  }

  /** You have stopped speaking. */
  endYours() {
    this.yours = null;
  }

  /** All of it as a file of text. */
  file() {
    return new Blob([this.transcript.toString()], { type: "text/plain" });
  }

  /** The newest word is like all others now. */
  settle() {
    clearTimeout(this.settling);
    if (this.fresh) this.places.get(this.fresh).textContent = this.fresh.text;
    this.fresh = null;
  }

  place(turn) {
    if (!this.places.has(turn)) {
      const said = make("span");
      const name = make("strong", {}, turn.name);
      const time = make("time", {}, clock(turn.time));
      this.list.append(make("p", { className: turn.agent ? "agent" : "you" }, time, name, said));
      this.places.set(turn, said);
    }
    return this.places.get(turn);
  }

  keepUp() {
    if (this.following) this.follow();
  }

  follow() {
    this.list.scrollTop = this.list.scrollHeight;
  }
}

/** Your voice as strokes: what stands in place of words. */
function drawing(levels) {
  const every = Math.ceil(levels.length / MOST);
  const shown = levels.filter((_, index) => index % every === 0);
  const strokes = shown.map((level, index) => {
    const half = Math.max(0.5, (level * HEIGHT) / 2);
    return `M${index * STROKE + 2} ${HEIGHT / 2 - half}v${2 * half}`;
  });
  const { namespaceURI } = document.querySelector("svg");
  const image = document.createElementNS(namespaceURI, "svg");
  const path = document.createElementNS(namespaceURI, "path");
  path.setAttribute("d", strokes.join(""));
  image.setAttribute("aria-hidden", "true");
  image.setAttribute("viewBox", `0 0 ${shown.length * STROKE} ${HEIGHT}`);
  image.setAttribute("width", shown.length * STROKE);
  image.setAttribute("height", HEIGHT);
  image.append(path);
  return image;
}
