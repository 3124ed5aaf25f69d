/** Who speaks now: both names, lit in their colours, and how the microphone does. */

import { loudness } from "./levels.js";
import { at } from "./page.js";
import { Speech } from "./speech.js";

const BLOCKS = 4; // that are shown as one
const CLIPPED = 0.99; // a peak that was cut off, or nearly
const CLIPPING_SHOWN = 75; // blocks: 1.5 seconds
const NOTHING = 10 ** (-80 / 20); // root mean square; microphones that work are never so quiet
const NOTHING_FOR = 250; // blocks: 5 seconds

export class Sides {
  constructor() {
    this.you = new Speech();
    this.agent = new Speech();
    this.begin("");
  }

  /** A microphone is open. */
  begin(name) {
    this.name = name;
    this.blocks = 0;
    this.clipped = 0; // blocks for which that is still shown
    this.nothing = 0; // blocks of nothing from the microphone, in a row
    this.quiet();
  }

  /** Nobody speaks. */
  quiet() {
    this.you.clear();
    this.agent.clear();
    this.loudest = 0;
    this.spoken = null; // while you speak, every 80 ms: for how long, and how loud
    this.light();
  }

  /** Take a block. */
  add({ heard, said, peak }, muted) {
    this.you.add(heard);
    this.agent.add(said);
    this.loudest = Math.max(this.loudest, heard);
    this.nothing = heard > NOTHING || muted ? 0 : this.nothing + 1;
    this.clipped = peak >= CLIPPED ? CLIPPING_SHOWN : Math.max(0, this.clipped - 1);
    this.spoken = null;
    if (++this.blocks % BLOCKS) return;
    if (this.you.speaking) this.spoken = { seconds: this.you.seconds, level: loudness(this.loudest) };
    this.loudest = 0;
    this.light();
  }

  light() {
    at("talk").classList.toggle("you-speak", this.you.speaking);
    at("talk").classList.toggle("agent-speaks", this.agent.speaking);
    at("clipping").hidden = !this.clipped;
    const silent = this.nothing >= NOTHING_FOR;
    at("microphone").textContent = silent ? `no sound from ${this.name}: is it switched off?` : this.name;
    at("microphone").classList.toggle("bad", silent);
  }
}
