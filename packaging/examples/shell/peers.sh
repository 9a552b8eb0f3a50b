#!/bin/sh
# PeerService: connects to a peer, measures the way, stays connected to it. peers.sh SOCKET ADDRESS
# ADDRESS is one of those that `p2pctl status` prints on the other machine; it ends in the peer's id.
set -eu
export P2PD_SOCKET="$1"
address="$2"
peer="${address##*/}"

p2pctl peers connect "$address"
p2pctl peers
p2pctl peers show "$peer"
p2pctl peers ping "$peer" -n 3 --interval 100ms

# Kept across restarts of the daemon, and dialled again whenever the connection is lost.
p2pctl peers pin "$address" --tag example
p2pctl peers pins
p2pctl peers unpin "$peer"

# Who may connect is ruled for peers and ranges of addresses; this range is for documentation and harms nobody.
p2pctl peers deny 198.51.100.0/24
p2pctl peers rules
p2pctl peers unrule 198.51.100.0/24
