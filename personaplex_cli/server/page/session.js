/**
 * A conversation over a WebSocket: 16-bit samples in binary messages, JSON objects with a `type` in text messages.
 *
 * Knows no page: what arrives is given to `hear`, an object with one function for each kind of message (state, ready,
 * transcript, latency, error), and for the connection itself: sound(pcm), network(ms), slow(), closed(event).
 */

const PING_EVERY = 2000; // milliseconds
const PING_TIMEOUT = 15000; // without an answer to a ping
const WAITING = 0.5; // seconds of sound that may wait for the network; more is left out

export class Session {
  /**
   * @param {URL} url of /pcm
   * @param {object} config what is asked for: persona or prompt, voice, seed, sample_rate
   */
  constructor(url, config, hear) {
    this.hear = hear;
    this.maxWaiting = WAITING * config.sample_rate * Int16Array.BYTES_PER_ELEMENT;
    this.socket = new WebSocket(url);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => {
      this.send("config", config);
      this.pulse = setInterval(() => this.ping(), PING_EVERY);
    };
    this.socket.onmessage = ({ data }) => this.receive(data);
    this.socket.onclose = ({ code, reason }) => this.over({ code, reason });
  }

  /** Say 16-bit samples; they are lost where the network does not keep up, so that the delay never grows. */
  say(pcm) {
    if (this.socket.readyState !== WebSocket.OPEN) return;
    if (this.socket.bufferedAmount > this.maxWaiting) this.hear.slow();
    else this.socket.send(pcm);
  }

  /** Hang up; nothing more is heard. */
  close() {
    this.hear = null;
    clearInterval(this.pulse);
    this.socket.close(1000);
  }

  /** Send a message, such as hush or restart, while there is a connection. */
  send(type, fields = {}) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ type, ...fields }));
  }

  ping() {
    if (!this.pinged) {
      this.pinged = performance.now();
      this.send("ping");
    } else if (performance.now() - this.pinged > PING_TIMEOUT) {
      this.over({ code: 1006, reason: "The server no longer responds." });
    }
  }

  receive(data) {
    if (!this.hear) return;
    if (data instanceof ArrayBuffer) return this.hear.sound(data);
    const { type, ...fields } = JSON.parse(data);
    if (type === "pong") {
      this.hear.network(performance.now() - this.pinged);
      this.pinged = null;
    } else {
      this.hear[type]?.(fields);
    }
  }

  over(event) {
    const hear = this.hear;
    this.close();
    hear?.closed(event);
  }
}
