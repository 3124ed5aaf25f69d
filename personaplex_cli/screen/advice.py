"""What the total delay is worth, and what to do about it: the stage that takes more than its share, and a remedy.

The grades are a choice. Between turns people leave 200 ms or so (Stivers et al., PNAS 2009); no telephone line should
take more than 400 ms (ITU-T G.114).
"""

from collections.abc import Sequence

GOOD, FAIR = 300, 400  # milliseconds: up to here the delay is not noticed, and up to here it does not disturb
USUAL = {"card in": 20, "frame": 80, "queue": 10, "encode": 8, "LM": 50, "decode": 10, "cushion": 60, "card out": 30}
USUAL |= {"network": 40, "server": 60}  # milliseconds that a stage takes where all is well
NAMES = {"card in": "microphone", "card out": "speaker", "LM": "model", "encode": "codec", "decode": "codec"}
SLOW_MODEL = "the model does not keep up; close other programs, or try --precision int8"
REMEDIES = {
    "card in": "the microphone holds its sound back; try --device-rate 48000, or another device without Bluetooth",
    "card out": "the speaker holds its sound back; try --device-rate 48000, or another device without Bluetooth",
    "queue": SLOW_MODEL,
    "encode": SLOW_MODEL,
    "LM": SLOW_MODEL,
    "decode": SLOW_MODEL,
    "cushion": "answers come unevenly and are held back; close other programs, use a cable instead of Wi-Fi",
    "network": "the way to the server is long; a nearer server, or a cable instead of Wi-Fi, helps",
    "server": "the server's model does not keep up; there, `personaplex bench` and --precision int8 help",
}

Stages = Sequence[tuple[str, float]]  # names and milliseconds, in the order that sound takes


def total(stages: Stages) -> float:
    return sum(milliseconds for _, milliseconds in stages)


def grade(milliseconds: float) -> str:
    """`good`, `slow` or `bad`."""
    return "good" if milliseconds <= GOOD else "slow" if milliseconds <= FAIR else "bad"


def advice(stages: Stages) -> str:
    """Which stage makes a slow answer slow, and what helps; nothing for an answer that is quick enough."""
    if grade(total(stages)) != "bad":
        return ""
    guilty, milliseconds = max(stages, key=lambda stage: stage[1] - USUAL[stage[0]])
    return f"{milliseconds:.0f} ms of it is the {NAMES.get(guilty, guilty)}: {REMEDIES[guilty]}."
