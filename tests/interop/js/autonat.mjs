// A js-libp2p peer that tests addresses of others (AutoNAT v2): autonat.mjs IP PORT. Says where it is, and ends with its standard input.

import { autoNATv2 } from '@libp2p/autonat-v2'
import { identify } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { createLibp2p } from 'libp2p'

const [ip, port] = process.argv.slice(2)
const address = `/ip4/${ip}/tcp/${port}`
const node = await createLibp2p({
  addresses: { listen: [address] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify(), autoNAT: autoNATv2() }
})
// Its own list has only addresses that others have tested.
process.stdout.write(JSON.stringify({ event: 'ready', address: `${address}/p2p/${node.peerId}` }) + '\n')
process.stdin.on('end', () => process.exit()).resume()
