/** Laws of the page's own arithmetic: run by test_page.py, in a copy of the page's folder with tests/data/*.json. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { JitterBuffer, shorten } from "./jitter_buffer.js";
import { clock, Transcript } from "./transcript.js";

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
    transcript.begin("Teacher");
    for (const [frame, piece] of pieces) transcript.add(Number((frame * 0.08).toFixed(2)), piece);
    const said = transcript.talks[0].turns.filter(({ text }) => text).map(({ time, text }) => [time, text]);
    assert.deepEqual(said, turns);
  });
}

test("the saved text has a title for each conversation and a line for each turn", () => {
  const transcript = new Transcript();
  transcript.begin("Teacher");
  transcript.add(0.08, " ");
  assert.ok(transcript.empty);
  for (const [time, piece] of [[0.16, " Hel"], [0.24, "lo"], [12, " Then"]]) transcript.add(time, piece);
  assert.ok(!transcript.empty);
  transcript.begin("Chef");
  transcript.add(65, " Salt!");
  const text = "Teacher\n\n0:00  Hello\n0:12  Then\n\nChef\n\n1:05  Salt!\n";
  assert.equal(transcript.toString(), text);
  transcript.begin("Astronaut");
  assert.equal(transcript.toString(), text);
});

test("a clock counts minutes and whole seconds, and never below nothing", () => {
  assert.deepEqual([-1, 0, 9.99, 60, 3599.5].map(clock), ["0:00", "0:00", "0:09", "1:00", "59:59"]);
});
