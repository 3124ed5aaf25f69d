/** What the agent said: pieces of text with times become turns. Knows no page. */

const TURN_PAUSE = 1.5; // seconds without text that end a turn
const PIECE = 0.08; // seconds: a piece belongs to one frame

export class Transcript {
  constructor() {
    this.talks = []; // {title, turns: [{time, end, text}]}, one for each time the conversation began
  }

  /** A conversation begins, with nothing said; `title` says with whom. */
  begin(title) {
    this.talks.push({ title, turns: [] });
  }

  /** Add a piece; a piece that begins with a space begins a new word. Returns the turn it became part of. */
  add(time, piece) {
    const { turns } = this.talks.at(-1);
    let turn = turns.at(-1);
    if (!turn || (time - turn.end >= TURN_PAUSE && piece.startsWith(" "))) turns.push((turn = { time, text: "" }));
    turn.text = (turn.text + piece).trimStart();
    turn.end = time + PIECE;
    return turn;
  }

  get empty() {
    return this.talks.every(({ turns }) => turns.length === 0);
  }

  /** All of it as plain text: a title for each conversation, a line for each turn. */
  toString() {
    return this.talks
      .filter(({ turns }) => turns.length)
      .map(({ title, turns }) => [title, "", ...turns.map(({ time, text }) => `${clock(time)}  ${text}`), ""].join("\n"))
      .join("\n");
  }
}

/** Seconds as minutes and seconds: 0:07. */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}
