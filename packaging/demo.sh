#!/bin/sh
# Two daemons on this machine: speech is published on one and received on the other. demo.sh BIN [--once]
set -eu
bin="$1"
once="${2:-}"
work="$(mktemp -d)"
pids=
cleanup() {
    for pid in $pids; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
}
trap 'cleanup; rm -rf "$work/a" "$work/b"' EXIT
trap 'exit 130' INT TERM

a="$work/a.sock"
b="$work/b.sock"
if command -v espeak-ng >/dev/null && command -v sox >/dev/null; then
    espeak-ng -w "$work/say.wav" "This is p2pd. What you hear left one daemon and came out of another, signed by its publisher."
    sox -q "$work/say.wav" -r 48000 "$work/show.wav"
    set -- "$work/show.wav"
else
    set -- --tone 440 --duration 8s
fi

echo "starting two daemons"
"$bin/p2pd" run --dev --socket "$a" >"$work/a.log" 2>&1 &
pids="$pids $!"
"$bin/p2pctl" -s "$a" wait ready --timeout 30s
address="$(sed -n 's/^address: \(.*\/tcp\/[0-9]*\/p2p\/.*\)$/\1/p' "$work/a.log" | head -n 1)"
"$bin/p2pd" run --dev --socket "$b" --bootstrap "$address" >"$work/b.log" 2>&1 &
pids="$pids $!"
"$bin/p2pctl" -s "$b" wait peers=1 --timeout 30s

"$bin/p2pctl" -s "$b" -o "$work/received.opus" listen town-radio --wait 30s 2>"$work/listen.log" &
listener=$!
"$bin/p2pctl" -s "$a" publish-stream town-radio "$@" --name "Town radio" --category news --title "p2pd demo" --loop >"$work/publish.log" 2>&1 &
publisher=$!
pids="$pids $publisher $listener"
"$bin/p2pctl" -s "$b" wait stream=town-radio --timeout 30s
echo
echo "what the second daemon lists:"
"$bin/p2pctl" -s "$b" streams
echo
echo "listening for a while"
# Each part is waited for: eight seconds of sound, then the publisher is stopped, which ends the listener.
"$bin/p2pctl" -s "$b" -o "$work/received.wav" listen town-radio --duration 8s 2>"$work/wav.log" || { cat "$work/wav.log"; exit 1; }
kill -INT "$publisher" 2>/dev/null || true
wait "$listener" || { cat "$work/listen.log"; exit 1; }
sed 's/^/  /' "$work/listen.log"

seconds="$(sed -n 's/^received \([0-9]*\).*/\1/p' "$work/listen.log")"
lost="$(sed -n 's/.* played, \([0-9]*\) concealed.*/\1/p' "$work/listen.log")"
if [ "${seconds:-0}" -lt 7 ] || [ "${lost:-1}" != 0 ]; then
    echo "the demo failed: $seconds s received, $lost frames lost; logs are in $work" >&2
    exit 1
fi
if [ $# -eq 1 ] && command -v sox >/dev/null; then
    # The same words: as loud, and as bright, which is how often the wave crosses nought.
    loud="$(sox "$work/received.wav" -n stat 2>&1 | sed -n 's/^RMS     amplitude: *//p')"
    sent="$(sox "$1" -n stat 2>&1 | sed -n 's/^RMS     amplitude: *//p')"
    bright="$(sox "$work/received.wav" -n stat 2>&1 | sed -n 's/^Rough   frequency: *//p')"
    sent_bright="$(sox "$1" -n stat 2>&1 | sed -n 's/^Rough   frequency: *//p')"
    echo "  loudness sent $sent, received $loud; brightness sent $sent_bright Hz, received $bright Hz"
    if ! echo "$sent $loud $sent_bright $bright" | awk '{ exit !($2 > $1 * 0.7 && $2 < $1 * 1.4 && $4 > $3 * 0.7 && $4 < $3 * 1.4) }'; then
        echo "the demo failed: what was received is not what was sent; logs are in $work" >&2
        exit 1
    fi
fi
echo
echo "play what was received:  $work/received.opus"
[ "$once" != --once ] || exit 0
echo "the daemons go on; in another terminal:"
echo "  export P2PD_SOCKET=$b"
echo "  $bin/p2pctl peers"
echo "Ctrl-C ends them"
wait
