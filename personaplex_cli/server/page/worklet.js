/**
 * On the audio thread: blocks of the microphone go out, what the agent says comes in and is played through a buffer.
 *
 * In: an ArrayBuffer of 16-bit samples, or "clear" to forget what waits. Out, every 20 ms: both sides' 16-bit samples,
 * their levels (root mean square, 0 to 1), the microphone's peak, and how the buffer does.
 */

import { JitterBuffer } from "./jitter_buffer.js";

const BLOCK = 0.02; // seconds
const FULL_SCALE = 32767;

class Talk extends AudioWorkletProcessor {
  constructor() {
    super();
    this.buffer = new JitterBuffer(sampleRate);
    this.begin();
    this.port.onmessage = ({ data }) => {
      if (data === "clear") this.buffer.clear();
      else this.buffer.put(Float32Array.from(new Int16Array(data), (sample) => sample / FULL_SCALE));
    };
  }

  process([microphone], [[speaker]]) {
    this.buffer.take(speaker);
    for (let index = 0; index < speaker.length; index++) this.add(microphone[0]?.[index] ?? 0, speaker[index]);
    return true;
  }

  begin() {
    const length = Math.round(BLOCK * sampleRate);
    this.you = new Int16Array(length);
    this.agent = new Int16Array(length);
    this.filled = 0;
    this.heard = 0;
    this.said = 0;
    this.peak = 0;
  }

  add(heard, said) {
    this.you[this.filled] = whole(heard);
    this.agent[this.filled++] = whole(said);
    this.heard += heard * heard;
    this.said += said * said;
    this.peak = Math.max(this.peak, Math.abs(heard));
    if (this.filled === this.you.length) this.report();
  }

  report() {
    const { you, agent, peak } = this;
    const { underruns, depth } = this.buffer;
    const [heard, said] = [this.heard, this.said].map((sum) => Math.sqrt(sum / this.filled));
    const block = { you, agent, heard, said, peak, underruns, waiting: depth / sampleRate };
    this.port.postMessage(block, [you.buffer, agent.buffer]);
    this.begin();
  }
}

function whole(sample) {
  return Math.round(Math.max(-1, Math.min(1, sample)) * FULL_SCALE);
}

registerProcessor("talk", Talk);
