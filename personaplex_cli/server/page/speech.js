/** When somebody speaks, told from how loud each 20 ms are. Knows no page. */

const SPEECH = 10 ** (-45 / 20); // root mean square; as in hush.py
const ONSET = 12; // blocks that begin speech: 0.24 s, so that a click is none
const GAP = 5; // quiet blocks in a row that a beginning survives
const PAUSE = 35; // quiet blocks in a row that end speech: 0.7 s
const BLOCK = 0.02; // seconds

export class Speech {
  constructor() {
    this.clear();
  }

  clear() {
    this.speaking = false;
    this.blocks = 0; // since it began
    this.quiet = 0; // of them, at the end
  }

  /** Take the next block's level; returns whether somebody speaks. */
  add(level) {
    const quiet = level > SPEECH ? 0 : this.quiet + 1;
    if (quiet >= (this.speaking ? PAUSE : GAP) || (quiet && !this.blocks)) {
      this.clear();
    } else {
      this.quiet = quiet;
      this.blocks++;
      this.speaking ||= this.blocks - quiet >= ONSET;
    }
    return this.speaking;
  }

  /** How long it has been going on, without the pause at its end. */
  get seconds() {
    return (this.blocks - this.quiet) * BLOCK;
  }
}
