#!/bin/sh
# BandwidthService: tunnels leave room to sound for a while. Needs jq.
# bandwidth.sh SOCKET
set -eu
socket="$1"
before="$(p2pctl -s "$socket" rpc p2pd.v1.BandwidthService/GetBandwidth)"

# Bytes a second; what is not named stays as it is.
p2pctl -s "$socket" rpc p2pd.v1.BandwidthService/SetBandwidth '{"limits": {"bulk_upload": 125000}}' |
    jq '"bulk: \(.limits.bulk_upload) bytes a second"'

# As it was.
p2pctl -s "$socket" rpc p2pd.v1.BandwidthService/SetBandwidth "$before" > /dev/null
