/**
 * What both said: pieces of the agent's text with times become turns, by the rule of transcript.py. Yours are the
 * stretches in which you spoke: when, how long, and the words if the server writes them down. Knows no page.
 *
 * The agent's turn ends after a pause, even in the middle of a word; when a long one comes to the end of a sentence;
 * and before it gets too long.
 */

const FRAME = 0.08; // seconds; a piece belongs to one frame
const PAUSE = 19; // frames without text that end a turn: 1.5 seconds
const LATE = 1.5; // seconds by which your words may lie outside the stretch in which you were heard
const LENGTH = 400; // characters; after so many, the next end of a sentence ends the turn
const LIMIT = 2000; // characters; no turn is longer
const SENTENCE_END = /[.!?…]$/;
const YOU = "You";
const PREFACE = "Your own words are not transcribed: a line marks when you spoke, and for how long.";

export class Transcript {
  constructor() {
    this.talks = []; // {name, title, turns}, one for each time a conversation began
  }

  /** A conversation begins, with nothing said; `title` says with whom, when, and why. */
  begin(name, title) {
    this.talks.push({ name, title, turns: [] });
  }

  /** Add a piece; a piece that begins with a space begins a new word. Returns the turn it became part of. */
  add(time, piece) {
    const { name, turns } = this.talks.at(-1);
    const frame = Math.round(time / FRAME);
    let turn = turns.findLast((each) => each.agent);
    if (!turn || isOver(turn, frame, piece)) turns.push((turn = { agent: true, name, time, pieces: "" }));
    turn.pieces = [...(turn.pieces + piece)].slice(0, LIMIT).join("");
    turn.text = tidy(turn.pieces);
    turn.newest = frame;
    return turn;
  }

  /** You begin to speak. Returns the turn, whose `seconds` may grow. */
  addYours(time) {
    const turn = { agent: false, name: YOU, time, seconds: 0, pieces: "" };
    this.talks.at(-1).turns.push(turn);
    return turn;
  }

  /** Add a piece of what you said, some time after you did. Returns the turn it became part of. */
  addYourWords(time, piece) {
    const beside = (turn) => Math.max(turn.time - time, time - turn.time - turn.seconds, 0);
    const yours = this.talks.at(-1).turns.filter((each) => !each.agent && beside(each) < LATE);
    const turn = yours.sort((one, other) => beside(one) - beside(other))[0] ?? this.addYours(time);
    turn.pieces += piece;
    turn.text = tidy(turn.pieces);
    return turn;
  }

  get empty() {
    return this.talks.every(({ turns }) => !turns.some(tells));
  }

  /** All of it as plain text: a title for each conversation, a line for each turn. */
  toString() {
    const talks = this.talks.map(({ name, title, turns }) => {
      const width = Math.max(name.length, YOU.length);
      return [title, "", ...turns.filter(tells).map((turn) => line(turn, width))];
    });
    const preface = this.talks.some(({ turns }) => turns.some(({ agent, text }) => !agent && text)) ? [] : [[PREFACE]];
    return [...preface, ...talks.filter((lines) => lines.length > 2)].map((lines) => `${lines.join("\n")}\n`).join("\n");
  }
}

function tidy(pieces) {
  return pieces.trim().replaceAll(/\s+/g, " ");
}

function tells({ text, seconds }) {
  return Boolean(text || seconds);
}

function line({ name, time, text, seconds }, width) {
  return `${clock(time)}  ${name.padEnd(width)}  ${text ?? `(${seconds.toFixed(1)} s)`}`;
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

/** Date and time of day here, the same everywhere: 2026-11-24 16:02. */
export function isoMinute(date = new Date()) {
  const two = (number) => String(number).padStart(2, "0");
  const day = [date.getFullYear(), two(date.getMonth() + 1), two(date.getDate())].join("-");
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}`;
}
