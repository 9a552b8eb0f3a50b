// Many js-libp2p peers with the usual settings in one process: crowd.mjs ADDRESS TOPIC COUNT. Each dials the address and
// follows the topic. For each line of standard input it says what each peer has heard since the last one, and how the peer
// scores whom it dialled.

import { createInterface } from 'node:readline'
import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const say = (event, fields) => process.stdout.write(JSON.stringify({ event, ...fields }) + '\n')

const [address, topic, count] = process.argv.slice(2)

async function peer () {
  const node = await createLibp2p({
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    services: { identify: identify(), pubsub: gossipsub() }
  })
  const { pubsub } = node.services
  const peer = { node, heard: 0 }
  pubsub.addEventListener('message', ({ detail }) => { if (detail.topic === topic) peer.heard++ })
  pubsub.subscribe(topic)
  await node.dial(multiaddr(address))
  return peer
}

const peers = []
for (let n = 0; n < Number(count); n++) peers.push(await peer())
say('ready', {})

const dialled = multiaddr(address).getComponents().at(-1).value
for await (const _ of createInterface({ input: process.stdin })) {
  say('report', {
    peers: peers.map(({ node, heard }) => ({ heard, score: node.services.pubsub.score.score(dialled) }))
  })
  for (const peer of peers) peer.heard = 0
}
process.exit()
