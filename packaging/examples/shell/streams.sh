#!/bin/sh
# StreamService: one daemon publishes a tone, the other finds it in the directory and records a second of it.
# streams.sh SOCKET OTHER, the sockets of two daemons of one network.
set -eu
socket="$1"
other="$2"
stream="example-$$"
work="$(mktemp -d)"
publisher=
trap '[ -z "$publisher" ] || kill "$publisher" 2>/dev/null || true; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

p2pctl -s "$other" publish-stream "$stream" --tone 440 --name "A tone" --category example &
publisher=$!
p2pctl -s "$socket" wait "stream=$stream" --timeout 30s
p2pctl -s "$socket" streams --category example
p2pctl -s "$socket" listen "$stream" -o "$work/tone.wav" --duration 1s
ls -l "$work/tone.wav"
