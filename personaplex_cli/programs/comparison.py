"""Two answers to the same user on one page: an HTML file that holds all it needs, opens from disk and asks no network.

Lanes of the user, the old answer and the new one: loudness, and words at their times; a click on a word plays it.
Words are anyone's: all text is escaped, and the page's policy lets no other script run.
"""

import base64
import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape

import numpy as np

from personaplex_cli.audio.opus import OpusWriter
from personaplex_cli.events import Began
from personaplex_cli.recorded import RecordedTalk
from personaplex_cli.samples import FRAME, FRAME_SECONDS, Samples, level
from personaplex_cli.transcript import AGENT, USER, Word, clock

SECOND = 160  # pixels of a lane
LETTER = 8  # pixels, about
ROWS, ROW = 3, 17  # of words in a lane, and their height, which is also that of names and times
WAVE = 40  # pixels of height
FLOOR = -60.0  # dBFS: silence
YOU = "You"

STYLE = f"""
:root {{ color-scheme: light dark; --user: #2a78d6; --old: #8a8a8a; --new: #1f9d55; }}
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 1.5rem; }}
h1 {{ font-size: 1.3rem; }}
button {{ font: inherit; margin-right: .5rem; }}
.lanes {{ position: relative; overflow-x: auto; border: 1px solid #8886; padding: .5rem 0; }}
.lane, .axis {{ position: relative; padding-bottom: 8px; }}
.lane b {{ position: sticky; left: .5rem; }}
.axis {{ height: {ROW}px; font-size: 11px; opacity: .7; }}
.axis span {{ position: absolute; border-left: 1px solid; padding-left: 3px; }}
.lane svg {{ display: block; }}
.words {{ position: relative; }}
.words span {{ position: absolute; white-space: pre; font-size: 13px; cursor: pointer; }}
.mark {{ position: absolute; top: 0; bottom: 0; border-left: 1px dashed #c00; padding-left: 3px; font-size: 11px; }}
#now {{ position: absolute; top: 0; bottom: 0; width: 2px; background: #e33; }}
figure {{ display: inline-block; margin: 1rem 1.5rem 0 0; }}
.user {{ color: var(--user); }} .old {{ color: var(--old); }} .new {{ color: var(--new); }}
""".strip()

SCRIPT = f"""
const SECOND = {SECOND};
const [user, ...answers] = document.querySelectorAll("audio");
const lanes = document.querySelector(".lanes"), now = document.getElementById("now");
let together = null;  // the answer that is played with the user

function stop() {{ for (const each of [user, ...answers]) each.pause(); }}
function play(answer, at) {{
  stop();
  together = answer;
  for (const each of [user, answer]) {{ each.currentTime = at; each.play(); }}
}}
for (const button of document.querySelectorAll("button[data-answer]"))
  button.onclick = () => play(answers[button.dataset.answer], user.ended ? 0 : user.currentTime);
document.getElementById("stop").onclick = stop;
lanes.onclick = (event) => {{
  if (event.target.dataset.at) play(together ?? answers[1], Number(event.target.dataset.at));
}};
function draw() {{
  const playing = [user, ...answers].find((each) => !each.paused) ?? user;
  if (together && !user.paused && !together.paused && Math.abs(together.currentTime - user.currentTime) > 0.1)
    together.currentTime = user.currentTime;
  const x = playing.currentTime * SECOND;
  now.style.left = `${{x}}px`;
  if (!playing.paused && (x < lanes.scrollLeft || x > lanes.scrollLeft + lanes.clientWidth - 80))
    lanes.scrollLeft = x - 80;
  requestAnimationFrame(draw);
}}
draw();
""".strip()


def page(before: RecordedTalk, after: RecordedTalk, summary: Sequence[str] = ()) -> str:
    """The page about a talk as it was and as it was held again; `summary` are sentences above the lanes."""
    heard = next((event.user for _, event in before.events if isinstance(event, Began) and event.user), YOU)
    user = "you" if heard == YOU else heard
    title = f"{_text(before.name)}: two answers to the same recording"
    lanes = [
        ("user", heard, before.heard, before.words, USER),
        ("old", "The old answer", before.said, before.words, AGENT),
        ("new", "The new answer", after.said, after.words, AGENT),
    ]
    seconds = max(before.frames, after.frames) * FRAME_SECONDS
    width = round(seconds * SECOND)
    whose = (("old", before), ("new", after))
    script = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; media-src data:; style-src 'unsafe-inline'; script-src 'sha256-{script}'"
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        f"<title>{title}</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>",
        f"<h1>{title}</h1>",
        *(
            f'<p class="{kind}">The {kind} answer: {"<br>then ".join(map(_text, who(talk)))}</p>'
            for kind, talk in whose
        ),
        *(f"<p>{_text(sentence)}</p>" for sentence in summary),
        f'<p><button data-answer="0">Play {_text(user)} and the old answer</button>',
        f'<button data-answer="1">Play {_text(user)} and the new answer</button> <button id="stop">Stop</button></p>',
        f"<p>{seconds:.0f} seconds: scroll sideways to see all. A click on a word plays from there.</p>",
        '<div class="lanes">',
        _axis(seconds),
        *(
            _lane(kind, name, sound, [word for word in words if word.speaker == speaker], width)
            for kind, name, sound, words, speaker in lanes
        ),
        *_marks(before),
        '<div id="now"></div>\n</div>',
        *(_player(kind, name, sound) for kind, name, sound, *_ in lanes),
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n",
    ]
    return "\n".join(parts)


def who(talk: RecordedTalk) -> list[str]:
    """Who spoke, one after the other, and how."""
    begun = [event for _, event in talk.events if isinstance(event, Began)]
    return list(dict.fromkeys(", ".join(filter(None, (each.who, each.model))) for each in begun))


def _text(text: str) -> str:
    """As HTML; what UTF-8 cannot carry is a question mark."""
    return escape(text.encode("utf-8", "replace").decode())


def _axis(seconds: float) -> str:
    times = "".join(f'<span style="left:{at * SECOND}px">{clock(at)}</span>' for at in range(math.ceil(seconds)))
    return f'<div class="axis" style="width:{round(seconds * SECOND)}px">{times}</div>'


def _lane(kind: str, name: str, sound: Samples, words: Sequence[Word], width: int) -> str:
    places = list(_places(words))
    height = ROW * (1 + max((row for _, row, _ in places), default=-1))
    spans = "".join(
        f'<span style="left:{x}px;top:{row * ROW}px" data-at="{word.start:.2f}" title="{clock(word.start)}">'
        f"{_text(word.word)}</span>"
        for x, row, word in places
    )
    said = f'<div class="words" style="height:{height}px">{spans}</div>' if spans else ""
    svg = (
        f'<svg width="{width}" height="{WAVE}"><path d="{_path(sound)}" stroke="currentColor" stroke-width="9"/></svg>'
    )
    return f'<div class="lane {kind}" style="width:{width}px"><b>{_text(name)}</b>{said}{svg}</div>'


def _places(words: Iterable[Word]) -> Iterator[tuple[int, int, Word]]:
    """Where each word is drawn: at its time, in the first row in which it covers no other one, if there is one."""
    ends = [0] * ROWS
    for word in words:
        x = round(word.start * SECOND)
        row = next((row for row, end in enumerate(ends) if end <= x), int(np.argmin(ends)))
        ends[row] = x + LETTER * (len(word.word) + 1)
        yield x, row, word


def _path(sound: Samples) -> str:
    """A stroke for each frame that is not silent, as high as it is loud."""
    strokes = []
    for index, frame in enumerate(sound.reshape(-1, FRAME)):
        loudness = max(0.0, 1 - level(frame) / FLOOR)
        if loudness > 0:
            strokes.append(f"M{(index + 0.5) * FRAME_SECONDS * SECOND:.1f} {WAVE}v-{max(1.0, loudness * WAVE):.0f}")
    return "".join(strokes)


def _marks(talk: RecordedTalk) -> Iterator[str]:
    for frame, event in talk.events:
        if isinstance(event, Began) and frame:
            x = round(frame * FRAME_SECONDS * SECOND)
            yield f'<div class="mark" style="left:{x}px">begins again: {_text(event.persona)}</div>'


def _player(kind: str, name: str, sound: Samples) -> str:
    writer = OpusWriter()
    ogg = b"".join(writer.write(frame) for frame in (*sound.reshape(-1, FRAME), np.zeros(FRAME, dtype=np.float32)))
    data = base64.b64encode(ogg).decode()
    return (
        f'<figure><figcaption class="{kind}">{_text(name)}</figcaption>'
        f'<audio controls preload="auto" src="data:audio/ogg;base64,{data}"></audio></figure>'
    )
