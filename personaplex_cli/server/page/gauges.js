/** The figures of a conversation: one for the delay, one for the model's memory; all others are details. */

import { FRAME, judge, STAGES } from "./delay.js";
import { at, make } from "./page.js";
import { clock } from "./transcript.js";

const FULL = 600; // milliseconds that fill the bar of the delay
const FADING = 30; // seconds before the persona is lost that the page begins to warn
const SMOOTH = 0.02; // share of a new value in the mean of the buffer

export class Gauges {
  constructor() {
    this.stages = STAGES.map((stage) => {
      const [milliseconds, bar] = [make("span", { id: `stage-${stage}` }), make("i")];
      const track = make("div", { className: "track" }, bar);
      const line = make("li", { hidden: true }, make("span", {}, stage), milliseconds, track);
      return { stage, milliseconds, bar, line };
    });
    at("stages").append(...this.stages.map(({ line }) => line));
    this.clear();
  }

  /** Nothing is known yet. */
  clear() {
    this.values = { frame: FRAME };
    this.figures = new Map();
    at("figures").replaceChildren();
    at("gauges").hidden = at("details").hidden = true;
  }

  /** A stage of the delay takes so many milliseconds; undefined if the browser does not tell. */
  stage(name, milliseconds) {
    if (milliseconds !== undefined) this.values[name] = milliseconds;
  }

  /** The same for the buffer, which rises and falls with every frame. */
  buffer(milliseconds) {
    const { buffer = milliseconds } = this.values;
    this.stage("buffer", buffer + (milliseconds - buffer) * SMOOTH);
  }

  /** One more detail. */
  figure(name, value) {
    if (!this.figures.has(name)) {
      const place = make("dd", { id: `figure-${name.replaceAll(" ", "-")}` });
      at("figures").append(make("div", {}, make("dt", {}, name), place));
      this.figures.set(name, place);
    }
    this.figures.get(name).textContent = value;
  }

  /** Show the delay, once all that the server and the network tell is known. */
  showDelay() {
    if (!["network", "server", "buffer"].every((stage) => stage in this.values)) return;
    const { total, verdict, worst, remedy } = judge(this.values);
    at("gauges").hidden = at("details").hidden = false;
    at("delay").dataset.verdict = verdict;
    at("delay-total").textContent = inMilliseconds(total);
    at("delay-verdict").textContent = verdict;
    at("delay-bar").style.width = `${Math.min(100, (100 * total) / FULL)}%`;
    at("remedy").hidden = !remedy;
    if (remedy) at("remedy").textContent = `The ${worst} takes ${inMilliseconds(this.values[worst])}. ${remedy}`;
    let before = 0;
    for (const { stage, milliseconds, bar, line } of this.stages) {
      const value = this.values[stage];
      line.hidden = value === undefined;
      if (line.hidden) continue;
      line.className = stage === worst ? "bad" : "";
      milliseconds.textContent = inMilliseconds(value);
      bar.style.marginLeft = `${(100 * before) / total}%`;
      bar.style.width = `${(100 * value) / total}%`;
      before += value;
    }
  }

  /** Show how long the persona is remembered, with so many frames left of so many. */
  showTimeLeft(frames, context) {
    const left = (frames * FRAME) / 1000;
    at("memory").classList.toggle("bad", left < FADING);
    const words = left >= FADING ? ["forgets who it is in ", make("strong", {}, clock(left))] : [fading(left)];
    this.showMemory(words, Math.max(0, frames / context));
  }

  /** Show how much of the talk is remembered, where the memory is renewed: so many of its frames. */
  showRemembered(frames, all) {
    const how = frames < all ? `the last ${clock((frames * FRAME) / 1000)}` : "all of it";
    at("memory").classList.remove("bad");
    this.showMemory(["remembers ", make("strong", {}, how)], frames / Math.max(1, all));
  }

  showMemory(words, share) {
    at("memory-left").replaceChildren(...words);
    at("memory-bar").ariaValueNow = String(Math.round(100 * share));
    at("memory-bar").firstElementChild.style.width = `${100 * share}%`;
  }
}

function fading(left) {
  return left > 0 ? `forgets who it is in ${clock(left)}` : "has forgotten who it is: restart";
}

function inMilliseconds(milliseconds) {
  return milliseconds < 1 ? "<1 ms" : `${Math.round(milliseconds)} ms`; // some browsers' clocks are no finer
}
