/** Both voices, seen: how loud each is now, and the last seconds of both in two lanes that fade with age. */

const FLOOR = -60; // decibels; what is below is drawn as silence
const BLOCKS = 4; // that a bar of the history stands for
const BLOCK = 20; // milliseconds
const PITCH = 6; // pixels from bar to bar
const BAR = 4; // pixels of a bar's width
const RULER = 18; // pixels below the lanes
const GAP = 6; // pixels between the lanes
const OLD = 0.3; // opacity of the oldest bar
const RISE = 0.45; // share of the way that a meter goes in one picture, upwards
const FALL = 0.1;
const SIDES = ["you", "agent"];
const WORDS = [[0.02, "silent"], [0.35, "quiet"], [0.95, "good"], [Infinity, "loud"]]; // what a meter is read out as

/** From silence (0) to full scale (1), as the ear counts. */
export function loudness(level) {
  return Math.max(0, 1 - (20 * Math.log10(Math.max(level, 1e-6))) / FLOOR);
}

export class Levels {
  /** @param {HTMLCanvasElement} canvas @param {{you: HTMLElement, agent: HTMLElement}} meters */
  constructor(canvas, meters) {
    this.canvas = canvas;
    this.meters = meters;
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    this.stop();
  }

  /** Take a block's levels (root mean square). */
  add(you, agent) {
    this.now = { you: Math.max(this.now.you, loudness(you)), agent: Math.max(this.now.agent, loudness(agent)) };
    this.target = { you: loudness(you), agent: loudness(agent) };
    if (++this.blocks % BLOCKS) return;
    this.bars = [this.now, ...this.bars].slice(0, this.canvas.width / PITCH + 1);
    this.now = { you: 0, agent: 0 };
    this.since = performance.now();
  }

  start() {
    this.stop();
    const draw = () => {
      this.drawMeters();
      this.drawLanes();
      this.picture = requestAnimationFrame(draw);
    };
    draw();
  }

  stop() {
    cancelAnimationFrame(this.picture);
    this.bars = []; // newest first: {you, agent}
    this.blocks = 0;
    this.since = performance.now(); // when the bar began that grows
    this.now = { you: 0, agent: 0 }; // its loudest
    this.target = this.shown = { you: 0, agent: 0 };
    this.drawMeters();
  }

  drawMeters() {
    for (const side of SIDES) {
      const [from, to] = [this.shown[side], this.target[side]];
      const level = from + (to - from) * (to > from ? RISE : FALL);
      const meter = this.meters[side];
      this.shown = { ...this.shown, [side]: level };
      meter.firstElementChild.style.width = `${(100 * level).toFixed(1)}%`;
      meter.ariaValueNow = String(Math.round(level * 20) * 5); // percent, in steps that can be listened to
      meter.ariaValueText = WORDS.find(([most]) => level < most)[1];
    }
  }

  drawLanes() {
    const { canvas } = this;
    const [width, height, scale] = [canvas.clientWidth, canvas.clientHeight, devicePixelRatio];
    if (canvas.width !== Math.round(width * scale)) canvas.width = Math.round(width * scale);
    if (canvas.height !== Math.round(height * scale)) canvas.height = Math.round(height * scale);
    const paint = canvas.getContext("2d");
    const colours = getComputedStyle(canvas);
    const lane = (height - RULER - GAP) / 2;
    const share = Math.min(1, (performance.now() - this.since) / (BLOCKS * BLOCK));
    const drift = this.still.matches ? 0 : share * PITCH;
    paint.setTransform(scale, 0, 0, scale, 0, 0);
    paint.clearRect(0, 0, width, height);
    SIDES.forEach((side, index) => {
      const floor = lane + index * (lane + GAP);
      paint.fillStyle = colours.getPropertyValue(`--${side}`);
      this.bars.forEach((bar, age) => {
        const x = width - drift - age * PITCH - BAR;
        const length = Math.max(2, bar[side] * lane);
        paint.globalAlpha = Math.max(0, Math.min(1, x / 40)) * (OLD + (1 - OLD) * (x / width)) * (bar[side] ? 1 : 0.4);
        paint.beginPath();
        paint.roundRect(x, floor - length, BAR, length, [BAR / 2, BAR / 2, 1, 1]);
        paint.fill();
      });
    });
    this.drawRuler(paint, width, height, colours);
  }

  drawRuler(paint, width, height, colours) {
    const second = (1000 / (BLOCKS * BLOCK)) * PITCH;
    paint.fillStyle = colours.color;
    paint.font = `11px ${colours.fontFamily}`;
    paint.textAlign = "right";
    paint.globalAlpha = 1;
    paint.fillText("now", width, height - 3);
    paint.textAlign = "center";
    for (let x = width - second, age = 1; x > 40; x -= second, age++) paint.fillText(`−${age} s`, x, height - 3);
  }
}
