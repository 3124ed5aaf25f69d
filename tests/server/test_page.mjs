/** Laws of the page's own arithmetic: run by test_page.py, in a copy of the page's folder with tests/data/*.json. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { FRAME as FRAME_MS, judge, STAGES } from "./delay.js";
import { JitterBuffer, shorten } from "./jitter_buffer.js";
import { Recording } from "./recording.js";
import { crowd } from "./server.js";
import { Speech } from "./speech.js";
import { clock, isoMinute, Transcript } from "./transcript.js";

const shared = (name) => JSON.parse(readFileSync(new URL(name, import.meta.url), "utf-8"));
const RATE = 24000;
const FRAME = 1920;
const SECOND = Array(12).fill(FRAME);

/** Numbers from 0 to 1 that are the same every time. */
function random(seed) {
  return () => (seed = (seed * 48271) % 2147483647) / 2147483647;
}

function tone(count, from = 0, hertz = 210) {
  const turn = (2 * Math.PI * hertz) / RATE;
  return Float32Array.from({ length: count }, (_, index) => 0.5 * Math.sin(turn * (from + index)));
}

function take(cushion, count) {
  const out = new Float32Array(count);
  cushion.take(out);
  return out;
}

/** A conversation in which each frame comes so many samples after the one before; all that was played. */
function converse(cushion, gaps, sound = tone) {
  const played = gaps.flatMap((gap, index) => {
    cushion.put(sound(FRAME, index * FRAME));
    return [...take(cushion, gap)];
  });
  return Float32Array.from(played);
}

const silence = (count) => new Float32Array(count);

test("what is put is played, unchanged, behind the cushion", () => {
  const cushion = new JitterBuffer(RATE);
  const played = converse(cushion, SECOND);
  const behind = 0.04 * RATE;
  assert.ok(played.subarray(0, behind).every((sample) => sample === 0));
  const begun = behind + cushion.fade;
  assert.deepEqual(played.subarray(begun), tone(12 * FRAME).subarray(cushion.fade, 12 * FRAME - behind));
  assert.equal(cushion.underruns, 0);
});

test("it does not matter how many samples the card takes at once", () => {
  const whole = new JitterBuffer(RATE);
  const pieces = new JitterBuffer(RATE);
  const next = random(1);
  for (let index = 0; index < 60; index++) {
    const count = Math.round(FRAME * (0.5 + next()));
    whole.put(tone(FRAME, index * FRAME));
    pieces.put(tone(FRAME, index * FRAME));
    const expected = take(whole, count);
    const heard = [];
    while (heard.length < count) {
      heard.push(...take(pieces, Math.min(count - heard.length, 1 + Math.floor(300 * next()))));
    }
    assert.deepEqual(Float32Array.from(heard), expected);
  }
  assert.ok(whole.underruns > 0);
  assert.equal(pieces.underruns, whole.underruns);
});

test("sound that runs dry is counted, and makes the cushion thicker, to 120 ms", () => {
  const cushion = new JitterBuffer(RATE);
  const thickness = [];
  for (let index = 0; index < 6; index++) {
    converse(cushion, [4 * FRAME]);
    thickness.push(cushion.thickness / RATE);
  }
  assert.deepEqual(thickness, [0.06, 0.08, 0.1, 0.12, 0.12, 0.12]);
  assert.equal(cushion.underruns, 6);
});

test("thirty good seconds make it thinner, down to 20 ms", () => {
  const cushion = new JitterBuffer(RATE);
  converse(cushion, Array(31 * 12.5 + 0.5).fill(FRAME));
  assert.equal(cushion.thickness, 0.02 * RATE);
  converse(cushion, Array(31 * 12.5 + 0.5).fill(FRAME));
  assert.equal(cushion.thickness, 0.02 * RATE);
  assert.equal(cushion.underruns, 0);
});

test("nothing clicks: gaps, backlogs, lost sound and beginning anew", () => {
  for (let seed = 1; seed <= 20; seed++) {
    const cushion = new JitterBuffer(RATE);
    const next = random(seed);
    let before = 0;
    let spoken = 0;
    const speak = () => cushion.put(tone(FRAME, FRAME * spoken++));
    for (let index = 0; index < 150; index++) {
      speak();
      if (next() < 0.05) cushion.clear();
      if (next() < 0.05) for (let more = 0; more < 14; more++) speak(); // more than may wait
      for (const sample of take(cushion, Math.round(2 * FRAME * next()))) {
        // A sine of this height moves by 0.028 at most from sample to sample; a cross-fade of two by twice that.
        assert.ok(Math.abs(sample - before) < 0.09, `a step of ${Math.abs(sample - before)} with seed ${seed}`);
        before = sample;
      }
    }
    assert.ok(cushion.underruns > 0);
    assert.ok(cushion.dropped > 0);
  }
});

test("no sample is lost without being counted", () => {
  const cushion = new JitterBuffer(RATE);
  const next = random(7);
  let put = 0;
  for (let index = 0; index < 300; index++) {
    const sound = next() < 0.5 ? silence(FRAME) : tone(FRAME);
    put += sound.length;
    cushion.put(sound);
    take(cushion, Math.round(1.9 * FRAME * next()));
  }
  assert.ok(cushion.shed > 0);
  assert.equal(put, cushion.played + cushion.length + cushion.shed + cushion.dropped);
});

test("more than a second never waits", () => {
  const cushion = new JitterBuffer(RATE);
  for (let index = 0; index < 40; index++) {
    cushion.put(tone(FRAME));
    assert.ok(cushion.length <= RATE);
  }
  assert.equal(cushion.dropped + cushion.length + cushion.shed, 40 * FRAME);
  cushion.put(tone(10 * RATE));
  assert.ok(cushion.length <= RATE);
});

test("what piles up behind a stall is shed, from silence wholly, from speech down to a fifth of a second", () => {
  for (const [sound, left] of [[silence, 0.01], [tone, 0.2]]) {
    const cushion = new JitterBuffer(RATE);
    converse(cushion, SECOND, sound);
    converse(cushion, Array(9).fill(0), sound); // the stall is over: all comes at once
    converse(cushion, Array(900).fill(FRAME), sound);
    assert.ok(cushion.depth <= cushion.thickness + (left + 0.001) * RATE, `${cushion.depth / RATE} s wait`);
    assert.equal(cushion.underruns, 0);
  }
});

test("no more is shed than has waited all the time: frames that come late find the cushion whole", () => {
  const cushion = new JitterBuffer(RATE);
  const late = Array(20).fill([0, 0, 0, 900, -900, 0, 0, 0, 0, 0]).flat().map((later) => FRAME + later);
  converse(cushion, late, silence);
  converse(cushion, [0, 0, 0, 0], silence);
  for (const gap of late) {
    converse(cushion, [gap], silence);
    assert.ok(cushion.depth >= cushion.thickness);
  }
  assert.ok(cushion.shed > 3 * FRAME);
});

test("to begin anew is no underrun", () => {
  const cushion = new JitterBuffer(RATE);
  converse(cushion, SECOND);
  cushion.clear();
  take(cushion, RATE);
  assert.equal(cushion.underruns, 0);
  assert.equal(cushion.length, 0);
});

test("shortening takes no more than it may, and leaves both ends alone", () => {
  const fade = 0.005 * RATE;
  const quietInside = tone(FRAME).map((sample, index) => (index > 500 && index < 1500 ? 0 : sample));
  for (const most of [1, 100, 479, 5000]) {
    const allowed = [[quietInside, false], [quietInside, true], [tone(FRAME), true], [silence(FRAME), false]];
    for (const [sound, loud] of allowed) {
      const shorter = shorten(sound, most, fade, loud);
      const cut = sound.length - shorter.length;
      assert.ok(cut > 0 && cut <= most);
      assert.equal(shorter[0], sound[0]);
      assert.equal(shorter.at(-1), sound.at(-1));
    }
  }
  assert.equal(shorten(tone(FRAME), 480, fade, false).length, FRAME);
});

test("the cushion does as the one in Python, but for the shape of fades: test_jitter_trace.py recorded that", () => {
  const cushion = new JitterBuffer(RATE);
  let put = 0;
  shared("jitter_trace.json").forEach((step, index) => {
    if (step.put !== undefined) {
      cushion.put(Float32Array.from(tone(FRAME, put, 213), (sample) => 2 * step.put * sample));
      put += FRAME;
    } else {
      const played = take(cushion, step.take).filter((_, place) => place % 487 === 0);
      step.played.forEach((sample, place) => {
        assert.ok(Math.abs(sample - played[place]) <= 0.004, `step ${index}: ${played[place]} is not ${sample}`);
      });
    }
    const after = [cushion.underruns, cushion.shed, cushion.dropped, cushion.thickness];
    assert.deepEqual(after, step.after, `step ${index}`);
  });
});

for (const { name, pieces, turns } of shared("turns.json")) {
  test(`the rule of turns: ${name}`, () => {
    const transcript = new Transcript();
    transcript.begin("Teacher", "");
    for (const [frame, piece] of pieces) transcript.add(Number((frame * 0.08).toFixed(2)), piece);
    const said = transcript.talks[0].turns.filter(({ text }) => text).map(({ time, text }) => [time, text]);
    assert.deepEqual(said, turns);
  });
}

test("the saved text has a title for each conversation and a line for each turn of both", () => {
  const transcript = new Transcript();
  transcript.begin("Teacher", "Teacher, voice NATF2");
  transcript.add(0.08, " ");
  assert.ok(transcript.empty);
  transcript.add(0.16, " Hel");
  const yours = transcript.addYours(0.2);
  assert.ok(!transcript.empty);
  transcript.add(0.24, "lo"); // you talk at the same time: the agent's turn goes on
  yours.seconds = 1.23;
  transcript.add(12, " Then");
  transcript.begin("Chef", "Chef, restarted");
  transcript.add(65, " Salt!");
  const text = `Your own words are not transcribed: a line marks when you spoke, and for how long.

Teacher, voice NATF2

0:00  Teacher  Hello
0:00  You      (1.2 s)
0:12  Teacher  Then

Chef, restarted

1:05  Chef  Salt!
`;
  assert.equal(transcript.toString(), text);
  transcript.begin("Astronaut", "Astronaut");
  transcript.addYours(3); // a turn that lasts no time is none
  assert.equal(transcript.toString(), text);
});

test("words of yours stand where you were heard to speak", () => {
  const transcript = new Transcript();
  transcript.begin("Teacher", "Teacher");
  const [first, second] = [1, 3.5].map((time) => Object.assign(transcript.addYours(time), { seconds: 2 }));
  transcript.add(6, " Hello.");
  for (const [time, piece] of [[0.8, " What"], [2.9, " is"], [3.4, " this"], [5.9, ","], [6, " then?"]]) {
    transcript.addYourWords(time, piece);
  }
  assert.deepEqual([first.text, second.text], ["What is", "this, then?"]);
  assert.equal(transcript.addYourWords(60, " Bye.").time, 60); // heard by the server alone
  const text = "Teacher\n\n0:01  You      What is\n0:03  You      this, then?\n0:06  Teacher  Hello.\n1:00  You      Bye.\n";
  assert.equal(transcript.toString(), text);
});

test("a date looks the same everywhere", () => {
  assert.equal(isoMinute(new Date(2026, 0, 2, 3, 4, 5)), "2026-01-02 03:04");
});

test("the delay is the sum of its stages; a bad one has a worst stage and a remedy", () => {
  const stages = { microphone: 10, frame: FRAME_MS, network: 5, server: 30, buffer: 40, speaker: 20 };
  assert.deepEqual(judge(stages), { total: 185, verdict: "good" });
  assert.deepEqual(judge({ ...stages, microphone: undefined }), { total: 175, verdict: "good" });
  assert.equal(judge({ ...stages, network: 150 }).verdict, "slow");
  for (const stage of STAGES.filter((each) => each !== "frame")) {
    const { total, verdict, worst, remedy } = judge({ ...stages, [stage]: 400 });
    assert.deepEqual([verdict, worst], ["bad", stage]);
    assert.ok(total > 400 && remedy.length > 20);
  }
});

test("speech is what lasts; a click is none, and a short pause does not end it", () => {
  const speech = new Speech();
  const say = (level, blocks) => Array.from({ length: blocks }, () => speech.add(level)).at(-1);
  assert.equal(say(0.1, 5), false); // a click
  assert.equal(say(0, 50), false);
  assert.equal(say(0.1, 12), true);
  assert.equal(say(0, 30), true); // 0.6 s
  assert.equal(say(0.1, 10), true);
  assert.equal(Math.round(100 * speech.seconds), 104);
  assert.equal(say(0, 34), true);
  assert.equal(Math.round(100 * speech.seconds), 104); // the pause is no part of it
  assert.equal(say(0, 1), false);
  assert.equal(speech.seconds, 0);
});

test("a talk is saved as a wav: you on the left, the agent on the right", async () => {
  const recording = new Recording();
  const block = (level, length = 480) => new Int16Array(length).fill(level);
  for (let index = 0; index < 1000; index++) recording.add(RATE, block(index), block(-index)); // 20 s: two parts
  assert.equal(recording.seconds, 20);
  recording.add(2 * RATE, block(7, 960), block(-7, 960)); // another microphone, at another rate
  const bytes = await recording.file().arrayBuffer();
  const view = new DataView(bytes);
  const text = (at, length) => String.fromCharCode(...new Uint8Array(bytes, at, length));
  assert.deepEqual([text(0, 4), text(8, 8), text(36, 4)], ["RIFF", "WAVEfmt ", "data"]);
  assert.deepEqual([view.getUint16(22, true), view.getUint32(24, true), view.getUint16(34, true)], [2, RATE, 16]);
  assert.deepEqual([view.getUint32(4, true), view.getUint32(40, true)], [bytes.byteLength - 8, bytes.byteLength - 44]);
  const samples = new Int16Array(bytes, 44);
  assert.equal(samples.length, 2 * 480 * 1001);
  for (const block of [1, 499, 999]) {
    assert.deepEqual([samples[960 * block], samples[960 * block + 1]], [block, -block]);
  }
  assert.deepEqual([...samples.subarray(-2)], [7, -7]);
});

test("a clock counts minutes and whole seconds, and never below nothing", () => {
  assert.deepEqual([-1, 0, 9.99, 60, 3599.5].map(clock), ["0:00", "0:00", "0:09", "1:00", "59:59"]);
});

test("how many talk and wait is a sentence", () => {
  const said = (active, slots, waiting) => crowd({ active, slots, waiting });
  assert.equal(said(0, 8, 0), "");
  assert.equal(said(1, 1, 0), "One person talks, nobody waits.");
  assert.equal(said(1, 8, 1), "1 of 8 talks, 1 waits.");
  assert.equal(said(8, 8, 2), "8 of 8 talk, 2 wait.");
});
