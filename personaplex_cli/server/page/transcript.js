/**
 * What the agent said: pieces of text with times become turns, by the rule of transcript.py. Knows no page.
 *
 * A turn ends after a pause, even in the middle of a word; when a long one comes to the end of a sentence; and before
 * it gets too long.
 */

const FRAME = 0.08; // seconds; a piece belongs to one frame
const PAUSE = 19; // frames without text that end a turn: 1.5 seconds
const LENGTH = 400; // characters; after so many, the next end of a sentence ends the turn
const LIMIT = 2000; // characters; no turn is longer
const SENTENCE_END = /[.!?…]$/;

export class Transcript {
  constructor() {
    this.talks = []; // {title, turns: [{time, text}]}, one for each time the conversation began
  }

  /** A conversation begins, with nothing said; `title` says with whom. */
  begin(title) {
    this.talks.push({ title, turns: [] });
  }

  /** Add a piece; a piece that begins with a space begins a new word. Returns the turn it became part of. */
  add(time, piece) {
    const { turns } = this.talks.at(-1);
    const frame = Math.round(time / FRAME);
    let turn = turns.at(-1);
    if (!turn || isOver(turn, frame, piece)) turns.push((turn = { time, pieces: "" }));
    turn.pieces = [...(turn.pieces + piece)].slice(0, LIMIT).join("");
    turn.text = turn.pieces.trim().replaceAll(/\s+/g, " ");
    turn.newest = frame;
    return turn;
  }

  get empty() {
    return this.talks.every(({ turns }) => turns.every(({ text }) => !text));
  }

  /** All of it as plain text: a title for each conversation, a line for each turn. */
  toString() {
    return this.talks
      .map(({ title, turns }) => ({ title, turns: turns.filter(({ text }) => text) }))
      .filter(({ turns }) => turns.length)
      .map(({ title, turns }) => [title, "", ...turns.map(({ time, text }) => `${clock(time)}  ${text}`), ""].join("\n"))
      .join("\n");
  }
}

/** Whether the turn ended before this piece. */
function isOver({ pieces, newest }, frame, piece) {
  const length = [...pieces].length;
  if (frame - newest > PAUSE || length + [...piece].length > LIMIT) return true;
  return length >= LENGTH && SENTENCE_END.test(pieces);
}

/** Seconds as minutes and seconds: 0:07. */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}
