/**
 * The one figure of a conversation: how long after you say something the answer to it can be heard. Knows no page.
 *
 * Sound takes these stages, in milliseconds; the frame is the wait until 80 ms of your sound are there.
 */

export const FRAME = 80;
export const STAGES = ["microphone", "frame", "network", "server", "buffer", "speaker"];
const GOOD = 300; // in all; up to here nobody notices
const BAD = 400; // beyond here people begin to talk at the same time
const USUAL = { microphone: 40, frame: FRAME, network: 40, server: 60, buffer: 80, speaker: 50 };
const REMEDIES = {
  microphone: "Wireless microphones are slow: use one with a cable.",
  network: "Use a cable or be nearer to the wireless router; a server nearby is faster, too.",
  server: "Its GPU is slow or has other work. On the server, “personaplex doctor” says more.",
  buffer: "Sound arrives unevenly. Use a cable, and close what else uses the network or this computer.",
  speaker: "Wireless headphones are slow: use some with a cable.",
};

/** How many milliseconds in all, whether that is `good`, `slow` or `bad`; if bad, the worst stage and a remedy. */
export function judge(stages) {
  const known = STAGES.filter((stage) => stages[stage] !== undefined);
  const total = known.reduce((sum, stage) => sum + stages[stage], 0);
  const verdict = total <= GOOD ? "good" : total <= BAD ? "slow" : "bad";
  if (verdict !== "bad") return { total, verdict };
  const excess = (stage) => stages[stage] - USUAL[stage];
  const worst = known.reduce((one, other) => (excess(other) > excess(one) ? other : one));
  return { total, verdict, worst, remedy: REMEDIES[worst] };
}
