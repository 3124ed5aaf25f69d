/** The transcript on the page: it follows what is said, unless the reader scrolled up. */

import { at, make } from "./page.js";
import { clock, Transcript } from "./transcript.js";

const NEAR = 48; // pixels from the end that count as being there

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
    this.transcript = new Transcript();
    this.places = new Map(); // turn: the element that shows its text
    this.list.replaceChildren();
    this.following = true;
    at("newest").hidden = true;
  }

  /** A conversation begins; a line is drawn under the one before. */
  begin(title) {
    if (!this.transcript.empty) this.list.append(make("h3", {}, "a new conversation"));
    this.transcript.begin(title);
    this.keepUp();
  }

  add(time, piece) {
    const turn = this.transcript.add(time, piece);
    if (!turn.text) return;
    if (!this.places.has(turn)) {
      this.places.set(turn, make("span"));
      this.list.append(make("p", {}, make("time", {}, clock(turn.time)), this.places.get(turn)));
    }
    this.places.get(turn).textContent = turn.text;
    this.keepUp();
  }

  keepUp() {
    if (this.following) this.follow();
  }

  follow() {
    this.list.scrollTop = this.list.scrollHeight;
  }

  /** Save the transcript as a file of text. */
  save() {
    const url = URL.createObjectURL(new Blob([this.transcript.toString()], { type: "text/plain" }));
    const now = new Date().toISOString().slice(0, 16).replaceAll(/[T:]/g, "-");
    make("a", { href: url, download: `personaplex-${now}.txt` }).click();
    URL.revokeObjectURL(url);
  }
}
