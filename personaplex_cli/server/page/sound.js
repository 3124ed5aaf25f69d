/** The microphone and the speaker of this browser, as blocks of 16-bit samples. */

const MODEL_RATE = 24000; // hertz
const SPEAKER_TIMEOUT = 10000; // milliseconds

/** Something the user can fix: `message` says what happened, `hint` what to do. */
export class Trouble extends Error {
  constructor(message, hint = "") {
    super(message);
    this.hint = hint;
  }
}

/** Why there can be no microphone on this page at all, or nothing. */
export function insecure() {
  if (window.isSecureContext && navigator.mediaDevices) return null;
  return new Trouble(
    "Browsers allow the microphone only on pages from localhost or https.",
    `Use a tunnel (ssh -L ${location.port || 80}:localhost:${location.port || 80} ${location.hostname}) ` +
      "and open localhost, or start the server with --ssl-cert and --ssl-key.",
  );
}

export class Sound {
  /**
   * Asks for the microphone and opens the speaker. Throws Trouble.
   * @param {boolean} loudspeakers the browser takes the agent's voice out of the microphone; with headphones any
   *   processing only hurts
   * @param {function({you: Int16Array, agent: Int16Array, heard: number, said: number, peak: number,
   *   underruns: number, waiting: number})} onBlock see worklet.js
   * @param {function()} onLost the microphone is gone
   */
  static async open(loudspeakers, onBlock, onLost) {
    const processing = { echoCancellation: loudspeakers, noiseSuppression: false, autoGainControl: false };
    const stream = await microphone({ ...processing, channelCount: 1 });
    const [track] = stream.getAudioTracks();
    track.addEventListener("ended", onLost);
    let context, source;
    try {
      ({ context, source } = connect(stream, track.getSettings().sampleRate));
      await context.audioWorklet.addModule(new URL("worklet.js", import.meta.url)).catch(() => {
        throw new Trouble("The server does not respond.", "Check that it is running and that you are online.");
      });
      const mono = { channelCount: 1, channelCountMode: "explicit", outputChannelCount: [1] };
      const node = new AudioWorkletNode(context, "talk", mono);
      node.port.onmessage = ({ data }) => onBlock(data);
      source.connect(node).connect(context.destination);
      await Promise.race([context.resume(), silence()]);
      return new Sound(stream, context, node);
    } catch (error) {
      track.stop();
      context?.close();
      throw error;
    }
  }

  constructor(stream, context, node) {
    this.stream = stream;
    this.context = context;
    this.node = node;
    this.rate = context.sampleRate; // hertz, of both directions
    const [track] = stream.getAudioTracks();
    this.name = track.label; // of the microphone
    this.capture = track.getSettings().latency; // seconds, where the browser tells
  }

  /** Milliseconds that sound spends in the cards, as far as the browser tells. */
  get delays() {
    const { baseLatency = 0, outputLatency = 0 } = this.context;
    const speaker = baseLatency + outputLatency;
    return { microphone: inMilliseconds(this.capture), speaker: inMilliseconds(speaker || undefined) };
  }

  /** Play 16-bit samples after those that wait. The buffer is given away. */
  play(pcm) {
    this.node.port.postMessage(pcm, [pcm]);
  }

  /** Forget what waits to be played. */
  clear() {
    this.node.port.postMessage("clear");
  }

  close() {
    this.node.port.onmessage = null;
    this.stream.getTracks().forEach((track) => track.stop());
    this.context.close();
  }
}

function inMilliseconds(seconds) {
  return seconds === undefined ? undefined : 1000 * seconds;
}

/** Fails when the speaker has had its time: without one, some browsers wait forever. */
async function silence() {
  await new Promise((resolve) => setTimeout(resolve, SPEAKER_TIMEOUT));
  throw new Trouble("The speaker cannot be opened.", "Plug in headphones or loudspeakers, then start again.");
}

async function microphone(audio) {
  try {
    return await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    switch (error.name) {
      case "NotAllowedError":
      case "SecurityError":
        throw new Trouble("Microphone access is blocked.", "Allow it next to this page’s address, then start again.");
      case "NotFoundError":
      case "OverconstrainedError":
        throw new Trouble("No microphone was found.", "Plug one in, then start again.");
      case "NotReadableError":
      case "AbortError":
        throw new Trouble("The microphone cannot be opened.", "Close other programs that use it, then start again.");
      default:
        throw new Trouble(`The microphone cannot be opened: ${error.message}`);
    }
  }
}

/** A context at the model's rate; where the browser does not convert the microphone's rate, at one that it takes. */
function connect(stream, microphoneRate) {
  for (const sampleRate of [MODEL_RATE, undefined, microphoneRate]) {
    const context = new AudioContext({ sampleRate, latencyHint: "interactive" });
    try {
      return { context, source: context.createMediaStreamSource(stream) };
    } catch {
      context.close();
    }
  }
  throw new Trouble(
    "This browser cannot use a microphone and a speaker with different sample rates.",
    "Choose both from the same device in the system's settings, or use another browser.",
  );
}
