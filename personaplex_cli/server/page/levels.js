/** Both voices, seen: how loud each is now, and the last seconds of both, yours upwards and the agent's downwards. */

const FLOOR = -60; // decibels; what is below is drawn as silence
const BLOCKS = 4; // that a bar of the history stands for
const BLOCK = 20; // milliseconds
const PITCH = 5; // pixels from bar to bar
const BAR = 3; // pixels of a bar's width
const RISE = 0.45; // share of the way that a meter goes in one picture, upwards
const FALL = 0.1;
const SIDES = ["you", "agent"];

/** From silence (0) to full scale (1), as the ear counts. */
function loudness(level) {
  return Math.max(0, 1 - (20 * Math.log10(Math.max(level, 1e-6))) / FLOOR);
}

export class Levels {
  /** @param {HTMLCanvasElement} canvas @param {{you: HTMLElement, agent: HTMLElement}} meters */
  constructor(canvas, meters) {
    this.canvas = canvas;
    this.meters = meters;
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    this.bars = []; // newest first: {you, agent}
    this.now = { you: 0, agent: 0 }; // the loudest of the bar that grows
    this.shown = { you: 0, agent: 0 };
    this.target = { you: 0, agent: 0 };
    this.since = performance.now(); // when that bar began
    this.blocks = 0;
  }

  /** Take a block's levels (root mean square). */
  add(you, agent) {
    this.now = { you: Math.max(this.now.you, loudness(you)), agent: Math.max(this.now.agent, loudness(agent)) };
    this.target = { you: loudness(you), agent: loudness(agent) };
    if (++this.blocks % BLOCKS) return;
    this.bars = [this.now, ...this.bars].slice(0, this.canvas.width / PITCH);
    this.now = { you: 0, agent: 0 };
    this.since = performance.now();
  }

  start() {
    this.bars = [];
    const draw = () => {
      this.draw();
      this.picture = requestAnimationFrame(draw);
    };
    cancelAnimationFrame(this.picture);
    draw();
  }

  stop() {
    cancelAnimationFrame(this.picture);
    this.target = this.shown = { you: 0, agent: 0 };
    this.drawMeters();
  }

  draw() {
    this.drawMeters();
    if (!this.still.matches) this.drawHistory();
  }

  drawMeters() {
    for (const side of SIDES) {
      const [from, to] = [this.shown[side], this.target[side]];
      const level = from + (to - from) * (to > from ? RISE : FALL);
      this.shown = { ...this.shown, [side]: level };
      this.meters[side].firstElementChild.style.transform = `scaleY(${level.toFixed(3)})`;
      this.meters[side].ariaValueNow = String(Math.round(level * 20) * 5); // percent, in steps that can be listened to
    }
  }

  drawHistory() {
    const { canvas } = this;
    const [width, height, scale] = [canvas.clientWidth, canvas.clientHeight, devicePixelRatio];
    if (canvas.width !== Math.round(width * scale)) canvas.width = Math.round(width * scale);
    if (canvas.height !== Math.round(height * scale)) canvas.height = Math.round(height * scale);
    const paint = canvas.getContext("2d");
    const colours = getComputedStyle(canvas);
    const drift = Math.min(1, (performance.now() - this.since) / (BLOCKS * BLOCK)) * PITCH;
    paint.setTransform(scale, 0, 0, scale, 0, 0);
    paint.clearRect(0, 0, width, height);
    for (const [side, direction] of [["you", -1], ["agent", 1]]) {
      paint.fillStyle = colours.getPropertyValue(`--${side}`);
      this.bars.forEach((bar, index) => {
        const [x, length] = [width - drift - index * PITCH - BAR, Math.max(1, bar[side] * (height / 2 - 2))];
        paint.globalAlpha = Math.max(0, Math.min(1, x / 80)) * (bar[side] ? 0.85 : 0.3);
        paint.beginPath();
        paint.roundRect(x, height / 2 + direction, BAR, direction * length, BAR / 2);
        paint.fill();
      });
    }
  }
}
