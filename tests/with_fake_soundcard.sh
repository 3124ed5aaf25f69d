#!/bin/sh
# Runs a command on a machine that has a sound card made of software, then takes the card away again.
#
#   tests/with_fake_soundcard.sh pytest tests/endtoend
#
# PipeWire, PulseAudio's protocol and ALSA's, so that PortAudio finds a device named `default`:
#   its speaker is the sink `speaker`, which can be recorded from `speaker.monitor`;
#   its microphone is the source `microphone`, which hears what is played to the sink `room`.
# Sound that should get from the speaker to the microphone through the air: pw-link speaker:monitor_FL microphone:input_MONO
#
# The command finds the number of the sound server's process in PERSONAPLEX_FAKE_SOUNDCARD, to stop it for a while.
#
# Needs no sound card, no desktop and no systemd. On Debian and Ubuntu:
#   apt-get install --no-install-recommends dbus espeak-ng libportaudio2 pipewire pipewire-alsa pipewire-pulse pulseaudio-utils wireplumber
set -eu
if [ $# -eq 0 ]; then
  echo "usage: $0 COMMAND [ARGUMENT...]" >&2
  exit 2
fi

# A second self with a session bus and a runtime folder of its own: whatever sound the machine has is out of reach.
if [ "${PERSONAPLEX_FAKE_SOUNDCARD:-}" != starting ]; then
  folder=$(mktemp -d)
  chmod 700 "$folder"
  status=0
  env -u PULSE_SERVER -u PIPEWIRE_REMOTE XDG_RUNTIME_DIR="$folder" PERSONAPLEX_FAKE_SOUNDCARD=starting \
    dbus-run-session -- "$0" "$@" || status=$?
  rm -rf "$folder"
  exit "$status"
fi

servers=""
stop_servers() {
  for server in $servers; do kill "$server" 2>/dev/null || true; done
  wait
}
trap stop_servers EXIT
trap 'exit 130' INT TERM

start() {
  "$@" >"$XDG_RUNTIME_DIR/$1.log" 2>&1 &
  servers="$! $servers"
}

# Tries a command for up to ten seconds.
until_works() {
  tries=100
  until "$@" >/dev/null 2>&1; do
    tries=$((tries - 1))
    if [ "$tries" -eq 0 ]; then
      echo "$0: this never worked: $*" >&2
      tail -n 5 "$XDG_RUNTIME_DIR"/*.log >&2
      exit 1
    fi
    sleep 0.1
  done
}

start pipewire
sound_server=$!
until_works test -S "$XDG_RUNTIME_DIR/pipewire-0"
start wireplumber
start pipewire-pulse
until_works pactl info
pactl load-module module-null-sink sink_name=speaker rate=48000 >/dev/null
pactl load-module module-null-sink sink_name=room rate=48000 channel_map=mono >/dev/null
pactl load-module module-null-sink sink_name=microphone rate=48000 channel_map=mono media.class=Audio/Source/Virtual >/dev/null
until_works pw-link room:monitor_MONO microphone:input_MONO
until_works pactl set-default-sink speaker
until_works pactl set-default-source microphone

status=0
PERSONAPLEX_FAKE_SOUNDCARD=$sound_server "$@" || status=$?
exit "$status"
