/**
 * On the audio thread: blocks of the microphone go out, what the agent says comes in and is played through a cushion.
 *
 * In: an ArrayBuffer of 16-bit samples, or "clear" to forget what waits. Out, every 20 ms: the microphone's 16-bit
 * samples, both levels (root mean square, 0 to 1), and how the cushion does.
 */

import { JitterBuffer } from "./jitter_buffer.js";

const BLOCK = 0.02; // seconds
const FULL_SCALE = 32767;

class Talk extends AudioWorkletProcessor {
  constructor() {
    super();
    this.cushion = new JitterBuffer(sampleRate);
    this.begin();
    this.port.onmessage = ({ data }) => {
      if (data === "clear") this.cushion.clear();
      else this.cushion.put(Float32Array.from(new Int16Array(data), (sample) => sample / FULL_SCALE));
    };
  }

  process([microphone], [[speaker]]) {
    this.cushion.take(speaker);
    for (let index = 0; index < speaker.length; index++) this.add(microphone[0]?.[index] ?? 0, speaker[index]);
    return true;
  }

  begin() {
    this.block = new Int16Array(Math.round(BLOCK * sampleRate));
    this.filled = 0;
    this.heard = 0;
    this.said = 0;
  }

  add(heard, said) {
    this.block[this.filled++] = Math.round(Math.max(-1, Math.min(1, heard)) * FULL_SCALE);
    this.heard += heard * heard;
    this.said += said * said;
    if (this.filled === this.block.length) this.report();
  }

  report() {
    const { underruns, depth } = this.cushion;
    const [heard, said] = [this.heard, this.said].map((sum) => Math.sqrt(sum / this.filled));
    const pcm = this.block.buffer;
    this.port.postMessage({ pcm, heard, said, underruns, cushion: depth / sampleRate }, [pcm]);
    this.begin();
  }
}

registerProcessor("talk", Talk);
