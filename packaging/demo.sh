#!/bin/sh
# Two daemons on this machine: speech is published on one and heard on the other. demo.sh BIN [--once]
set -eu
bin="$1"
once="${2:-}"
work="$(mktemp -d)"
received="${TMPDIR:-/tmp}/p2pd-demo-$(id -u).opus"
a="$work/a.sock"
b="$work/b.sock"
pids=
keep=
cleanup() {
    for pid in $pids; do kill "$pid" 2>/dev/null || true; done
    # They leave their own directories as they end.
    wait
    [ -n "$keep" ] || rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

fail() {
    keep=yes
    echo "the demo failed: $1; its logs are in $work" >&2
    exit 1
}

# A figure of a sound file: measure FILE FIGURE
measure() {
    sox "$1" -n stat 2>&1 | sed -n "s/^$2: *//p"
}

words="This is p2pd. What you hear left one daemon and came out of another, signed by its publisher."
if command -v espeak-ng >/dev/null && command -v sox >/dev/null; then
    espeak-ng -w "$work/say.wav" "$words"
    sox -q "$work/say.wav" -r 48000 "$work/show.wav"
    set -- "$work/show.wav"
    what=speech
else
    set -- --tone 440
    what="a tone"
fi

echo "starting two daemons"
"$bin/p2pd" run --dev --socket "$a" >"$work/a.log" 2>&1 &
pids="$!"
"$bin/p2pctl" -s "$a" wait ready --timeout 30s || fail "the first daemon does not start"
address="$(sed -n 's/^address: \(.*\/tcp\/[0-9]*\/p2p\/.*\)$/\1/p' "$work/a.log" | head -n 1)"
"$bin/p2pd" run --dev --socket "$b" --bootstrap "$address" >"$work/b.log" 2>&1 &
pids="$pids $!"
"$bin/p2pctl" -s "$b" wait peers=1 --timeout 30s || fail "the second daemon does not find the first"

"$bin/p2pctl" -s "$a" publish-stream town-radio "$@" --name "Town radio" --category news --title "p2pd demo" --loop \
    >"$work/publish.log" 2>&1 &
publisher=$!
pids="$pids $publisher"
"$bin/p2pctl" -s "$b" wait stream=town-radio --timeout 30s || fail "the second daemon does not hear of the stream"
echo
echo "what the second daemon lists:"
"$bin/p2pctl" -s "$b" streams
echo

# One listener keeps the exact packets, one the sound, and on a terminal one plays it.
"$bin/p2pctl" -s "$b" -o "$received" listen town-radio --duration 9s >"$work/listen.log" 2>&1 &
opus=$!
"$bin/p2pctl" -s "$b" -o "$work/received.wav" listen town-radio --duration 8s >"$work/wav.log" 2>&1 &
wav=$!
pids="$pids $opus $wav"
heard=
if [ -t 1 ]; then
    "$bin/p2pctl" -s "$b" -o card listen town-radio --duration 8s && heard=yes
    echo
fi
wait "$opus" || fail "$(tail -n 1 "$work/listen.log")"
wait "$wav" || fail "$(tail -n 1 "$work/wav.log")"
seconds="$(sed -n 's/^received \([0-9.]*\) s.*/\1/p' "$work/listen.log")"
lost="$(sed -n 's/.* played, \([0-9]*\) concealed.*/\1/p' "$work/listen.log")"
latency="$(sed -n 's/.*capture to playout \([0-9]*\) ms.*/\1/p' "$work/listen.log")"
[ "${seconds%.*}" -ge 8 ] && [ "${lost:-1}" = 0 ] || fail "${seconds:-0} s received, ${lost:-all} frames lost"
if [ "$what" = speech ]; then
    # The same words: as loud, and as bright, which is how often the wave crosses nought.
    measure "$1" "RMS     amplitude" >"$work/figures"
    measure "$work/received.wav" "RMS     amplitude" >>"$work/figures"
    measure "$1" "Rough   frequency" >>"$work/figures"
    measure "$work/received.wav" "Rough   frequency" >>"$work/figures"
    paste -s -d ' ' "$work/figures" |
        awk '{ exit !($2 > $1 * 0.7 && $2 < $1 * 1.4 && $4 > $3 * 0.7 && $4 < $3 * 1.4) }' ||
        fail "what was received is not what was sent"
fi
if [ -n "$heard" ]; then
    echo "You heard 8 seconds of $what from another daemon, ${latency:-?} ms after it was captured there; nothing was lost."
else
    echo "The second daemon received 9 seconds of $what, ${latency:-?} ms after its capture; nothing was lost."
    sed -n '/^received/,/^first sound/s/^/  /p' "$work/listen.log"
fi
echo "Hear it again: $received"
[ "$once" != --once ] || exit 0
echo
echo "The stream goes on. In another terminal:"
echo "  export P2PD_SOCKET=$b PATH=\"$(cd "$bin" && pwd):\$PATH\""
echo "  p2pctl listen town-radio        # or: streams, peers, status"
echo "Ctrl-C ends it."
wait "$publisher"
