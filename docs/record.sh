#!/bin/sh
# Draws docs/talk.svg, ten seconds of a conversation with the demo in which the user interrupts it, and docs/panel.svg, a
# moment of it. Program, model and sound are real; the sound card is made of software, and scripted is only when the user
# speaks (examples/question.wav, twice).
#
#   docs/record.sh
#
# On Debian: apt-get install asciinema npm, and what tests/with_fake_soundcard.sh needs.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
if [ -z "${PERSONAPLEX_FAKE_SOUNDCARD:-}" ]; then
  exec "$here/../tests/with_fake_soundcard.sh" "$0" "$@"
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

ask() { paplay --device=room "$here/../examples/question.wav" & }
talk="timeout --foreground -s INT 24 personaplex chat --model demo --device cpu --seed 3 --theme dark"
(sleep 10 && ask && sleep 6.3 && ask) &
# `script` gives it a terminal wherever this runs. svg-term knows 256 colours.
env -u COLORTERM TERM=xterm-256color script -qec "asciinema rec -q --cols 90 --rows 19 -c '$talk' $scratch/talk.cast" /dev/null

draw() { npx --yes svg-term-cli --in "$scratch/talk.cast" --window --no-cursor "$@"; }
draw --out "$here/talk.svg" --from 10500 --to 20500
draw --out "$here/panel.svg" --at 18000
