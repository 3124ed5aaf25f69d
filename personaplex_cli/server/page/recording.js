/**
 * The talk as sound: you on the left, the agent on the right, as one wav of 16 bits. Knows no page.
 *
 * It stays in the browser, which may move finished parts from memory to its disk.
 */

const PART = 10; // seconds of sound that are put together
const LIMIT = 7200; // seconds; what comes later is not kept
const HEADER = 44; // bytes

export class Recording {
  constructor() {
    this.rate = 0; // of the file, that of the first piece
    this.samples = 0; // of each side
    this.parts = [];
    this.pieces = [];
    this.waiting = 0; // samples in the pieces
  }

  /** Add what both said at the same time: 16-bit samples, as many of one as of the other. */
  add(rate, you, agent) {
    this.rate ||= rate;
    if (this.full) return;
    const piece = interleave(resample(you, rate, this.rate), resample(agent, rate, this.rate));
    this.pieces.push(piece);
    this.samples += piece.length / 2;
    this.waiting += piece.length / 2;
    if (this.waiting >= PART * this.rate) this.finishPart();
  }

  get seconds() {
    return this.samples / (this.rate || 1);
  }

  get full() {
    return this.seconds >= LIMIT;
  }

  /** All of it so far. */
  file() {
    this.finishPart();
    return new Blob([header(this.rate, this.samples), ...this.parts], { type: "audio/wav" });
  }

  finishPart() {
    this.parts.push(new Blob(this.pieces));
    this.pieces = [];
    this.waiting = 0;
  }
}

function interleave(left, right) {
  const both = new Int16Array(2 * left.length);
  left.forEach((sample, index) => (both[2 * index] = sample));
  right.forEach((sample, index) => (both[2 * index + 1] = sample));
  return both;
}

/** By straight lines: good enough for the rest of a talk whose microphone was changed. */
function resample(sound, from, to) {
  if (from === to) return sound;
  const last = sound.length - 1;
  return Int16Array.from({ length: Math.round((sound.length * to) / from) }, (_, index) => {
    const place = Math.min(last, (index * from) / to);
    const before = Math.floor(place);
    return sound[before] + (sound[Math.min(last, before + 1)] - sound[before]) * (place - before);
  });
}

function header(rate, samples) {
  const view = new DataView(new ArrayBuffer(HEADER));
  const bytes = 4 * samples;
  const words = (at, text) => [...text].forEach((letter, index) => view.setUint8(at + index, letter.charCodeAt(0)));
  words(0, "RIFF");
  view.setUint32(4, HEADER - 8 + bytes, true);
  words(8, "WAVEfmt ");
  view.setUint32(16, 16, true); // bytes of what follows, before the data
  view.setUint16(20, 1, true); // plain samples
  view.setUint16(22, 2, true); // channels
  view.setUint32(24, rate, true);
  view.setUint32(28, 4 * rate, true); // bytes per second
  view.setUint16(32, 4, true); // bytes of both channels
  view.setUint16(34, 16, true); // bits
  words(36, "data");
  view.setUint32(40, bytes, true);
  return view.buffer;
}
