/**
 * What the agent says, between the network that brings 80 ms at a time and the sound card that takes 128 samples.
 *
 * A frame that comes late finds the speaker still busy with the cushion of sound before it. The cushion costs latency,
 * so it is as thin as the network allows: it grows when the sound runs dry and shrinks when all goes well. Sound that
 * piles up behind a stall is shed again: from silence, and from speech when it is much.
 *
 * A pure function of the samples put and the counts taken: knows no clock, no network, no browser.
 */

const THINNEST = 0.02; // seconds, like all of these
const FIRST = 0.04;
const THICKEST = 0.12;
const STEP = 0.02; // thicker after running dry, thinner after CLEAN
const CLEAN = 30;
const LIMIT = 0.96; // more never waits, whatever happens
const SLACK = 0.01; // of backlog are not worth a cut
const LOUD = 0.2; // of backlog are left for the next silence to shed; beyond it speech is shortened too
const FADE = 0.005;
const WATCHED = 12; // puts: the backlog is what has been there at each of them, about a second
const QUIET = 10 ** (-50 / 20); // root mean square; what is below may be cut unheard

export class JitterBuffer {
  /** @param {number} rate samples per second */
  constructor(rate) {
    this.rate = rate;
    this.ring = new Float32Array(this.samples(LIMIT));
    this.fade = this.samples(FADE);
    this.last = new Float32Array(this.fade); // what was given last, a ring of its own
    this.given = 0; // samples, silence included
    this.played = 0; // samples of sound
    this.playing = false;
    this.risen = 0; // samples of the fade-in that were played
    this.tail = new Float32Array(this.fade); // what softens the end of the sound
    this.fallen = this.fade; // samples of the tail that were played
    this.underruns = 0; // times the sound ran dry
    this.shed = 0; // samples cut from a backlog
    this.dropped = 0; // samples lost beyond the limit
    this.depth = 0; // samples that the last put found waiting
    this.thickness = this.samples(FIRST);
    this.clear();
  }

  /** Forget what waits and begin anew, softly; nothing of it counts as an underrun. */
  clear() {
    this.head = 0;
    this.length = 0;
    this.backlog = [];
    this.clean = 0;
    this.stop(this.thickness);
  }

  /** Append what the agent says; never waits. Some of it is left out while there is a backlog. */
  put(sound) {
    this.depth = this.length;
    this.backlog = [...this.backlog, this.depth].slice(-WATCHED);
    const excess = Math.min(...this.backlog) - this.thickness;
    if (excess > this.samples(SLACK)) {
      const shorter = shorten(sound, excess, this.fade, excess > this.samples(LOUD));
      const cut = sound.length - shorter.length;
      this.backlog = this.backlog.map((depth) => depth - cut);
      this.shed += cut;
      sound = shorter;
    }
    this.append(sound);
  }

  /** Fill `out` with what is to be played next: sound, and silence where there is none. */
  take(out) {
    for (let index = 0; index < out.length; index++) out[index] = this.next();
  }

  samples(seconds) {
    return Math.round(seconds * this.rate);
  }

  append(sound) {
    const beyond = Math.max(0, this.length + sound.length - this.ring.length);
    if (beyond) this.interrupt();
    this.dropped += beyond;
    for (const sample of sound.subarray(-this.ring.length)) {
      if (this.length === this.ring.length) this.pop();
      this.ring[(this.head + this.length++) % this.ring.length] = sample;
    }
  }

  pop() {
    const sample = this.ring[this.head];
    this.head = (this.head + 1) % this.ring.length;
    this.length--;
    return sample;
  }

  next() {
    if (!this.playing && this.length && this.owed-- <= 0) this.playing = true;
    if (this.playing && !this.length) this.runDry();
    let sample = this.playing ? this.sound() : 0;
    if (this.fallen < this.fade) sample += this.tail[this.fallen++];
    this.last[this.given++ % this.fade] = sample;
    return sample;
  }

  /** The next sample, faded in where it was interrupted. */
  sound() {
    this.played++;
    if (++this.clean >= this.samples(CLEAN)) {
      this.clean = 0;
      this.thickness = Math.max(this.thickness - this.samples(STEP), this.samples(THINNEST));
    }
    return this.pop() * Math.min(1, ++this.risen / this.fade);
  }

  /** The gap lasts a little longer than it must: the cushion gets thicker by that much. */
  runDry() {
    const thicker = Math.min(this.thickness + this.samples(STEP), this.samples(THICKEST));
    const longer = thicker - this.thickness;
    this.underruns++;
    this.thickness = thicker;
    this.clean = 0;
    this.stop(longer);
  }

  /** Silence from here on; `owed` samples of it are counted from when sound waits again. */
  stop(owed) {
    if (this.playing) this.interrupt();
    this.playing = false;
    this.owed = owed;
  }

  /** The sound goes on backwards for a moment while it fades: no step, and no sound that was not there. */
  interrupt() {
    const newest = this.given - 1 + this.fade;
    this.tail = this.tail.map((_, index) => this.last[(newest - index) % this.fade] * (1 - index / this.fade));
    this.fallen = 0;
    this.risen = 0;
  }
}

/**
 * `sound` without one stretch of up to `most` samples, its ends cross-faded over `fade` samples.
 * The stretch is the longest one that is quiet. Without one, and if it may be `loud`, it is the quietest 10 ms.
 */
export function shorten(sound, most, fade, loud) {
  const power = powers(sound, fade);
  let [start, length] = longestRun(power.map((each) => each < QUIET ** 2));
  if (length < 2 && loud && power.length > 2) [start, length] = [quietest(power, 3), 3];
  const cut = Math.min(most, (length - 1) * fade);
  if (cut <= 0) return sound;
  const begin = start * fade;
  const shorter = new Float32Array(sound.length - cut);
  shorter.set(sound.subarray(0, begin));
  shorter.set(sound.subarray(begin + cut), begin);
  for (let index = 0; index < fade; index++) {
    const share = index / fade;
    shorter[begin + index] = sound[begin + index] * (1 - share) + sound[begin + cut + index] * share;
  }
  return shorter;
}

/** The mean square of each whole piece of `length` samples. */
function powers(sound, length) {
  return Array.from({ length: Math.floor(sound.length / length) }, (_, piece) =>
    sound.subarray(piece * length, (piece + 1) * length).reduce((sum, each) => sum + each * each, 0) / length,
  );
}

/** Where the longest run of true marks begins, and its length (0 if there is none). */
function longestRun(marks) {
  let best = [0, 0];
  let length = 0;
  marks.forEach((mark, index) => {
    length = mark ? length + 1 : 0;
    if (length > best[1]) best = [index - length + 1, length];
  });
  return best;
}

/** Where the `count` pieces in a row begin that are quietest together. */
function quietest(power, count) {
  const sums = power.slice(count - 1).map((_, start) => power.slice(start, start + count).reduce((a, b) => a + b));
  return sums.indexOf(Math.min(...sums));
}
