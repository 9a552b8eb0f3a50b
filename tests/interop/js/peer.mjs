// A js-libp2p peer for the interop tests of p2pd: JSON commands on standard input, JSON events on standard output, one
// a line. README.md lists them.

import { createHash } from 'node:crypto'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { noise } from '@libp2p/noise'
import { peerIdFromString } from '@libp2p/peer-id'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { byteStream } from '@libp2p/utils'
import { webSockets } from '@libp2p/websockets'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { CID } from 'multiformats/cid'
import * as Digest from 'multiformats/hashes/digest'
import * as raw from 'multiformats/codecs/raw'
import { directory } from './directory.mjs'

const IDENTIFY_MS = 10_000
const DHT_MS = 5_000
const MIB = 1024 * 1024

const say = (event, fields) => process.stdout.write(JSON.stringify({ event, ...fields }) + '\n')

const [dhtProtocol, globalSignaturePolicy] = process.argv.slice(2)

const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0', '/ip4/127.0.0.1/tcp/0/ws'] },
  transports: [tcp(), webSockets()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: {
    identify: identify(),
    ping: ping(),
    // Only loopback is there, which others leave out.
    ...(dhtProtocol && { dht: kadDHT({ protocol: dhtProtocol, clientMode: false, peerInfoMapper: passthroughMapper }) }),
    // Announcing before anyone listens is no mistake: a query finds the stream later.
    pubsub: gossipsub({ allowPublishToZeroTopicPeers: true, globalSignaturePolicy })
  }
})
const { pubsub } = node.services
const streams = directory(node)

// The iterator of a stream never ends if the other side closed before the iteration began, and takes no notice of a
// reset in between; byteStream looks at the stream's state.
async function * chunks (stream) {
  const bytes = byteStream(stream, { maxBufferSize: Infinity })
  for (let chunk; (chunk = await bytes.read()) != null;) yield chunk.subarray()
  if (['aborted', 'reset'].includes(stream.status)) throw new Error(`stream was ${stream.status}`)
}

async function write (stream, bytes) {
  if (!stream.send(bytes)) await stream.onDrain()
}

async function echo (stream) {
  for await (const chunk of chunks(stream)) await write(stream, chunk)
  await stream.close() // the writing side; the other one is closed already
}

async function sink (stream) {
  let bytes = 0
  for await (const chunk of chunks(stream)) bytes += chunk.length
  await write(stream, new TextEncoder().encode(`${bytes}`))
  await stream.close()
}

for (const [protocol, handler] of [['/p2pd-test/echo/1', echo], ['/p2pd-test/sink/1', sink]]) {
  // The other side of a broken stream should hear of it.
  await node.handle(protocol, stream => handler(stream).catch(error => stream.abort(error)))
}

// 1 MiB in which byte n is n mod 251: a prime, so that pieces swapped or lost change the hash.
const PATTERN = Uint8Array.from({ length: MIB }, (_, n) => n % 251)

async function send ({ peer, protocol, mib = 20 }) {
  const stream = await node.dialProtocol(peerIdFromString(peer), protocol)
  const sent = createHash('sha256')
  const answer = createHash('sha256')
  const start = [] // enough of the answer to show the sink's
  let bytes = 0
  const writing = async () => {
    for (let n = 0; n < mib; n++) {
      sent.update(PATTERN)
      await write(stream, PATTERN)
    }
    await stream.close()
  }
  const reading = async () => {
    for await (const chunk of chunks(stream)) {
      answer.update(chunk)
      bytes += chunk.length
      if (bytes <= 64) start.push(chunk)
    }
  }
  // At the same time: an echo that nobody reads would fill both windows and stop.
  await Promise.all([writing(), reading()])
  return {
    event: 'sent',
    bytes: mib * MIB,
    sha256: sent.digest('hex'),
    answer_bytes: bytes,
    answer_sha256: answer.digest('hex'),
    answer: bytes <= 64 ? Buffer.concat(start).toString() : undefined
  }
}

// js-libp2p identifies each new connection by itself, and fails a second identification at the same time.
const identities = new Map() // by connection id

function identity (connection) {
  if (!identities.has(connection)) identities.set(connection, Promise.withResolvers())
  return identities.get(connection)
}

async function expiry (ms) {
  await sleep(ms, undefined, { ref: false })
  throw new Error(`no answer in ${ms} ms`)
}

const content = multihash => CID.createV1(raw.code, Digest.decode(Buffer.from(multihash, 'hex')))

const commands = {
  dial: async ({ addr }) => {
    const connection = await node.dial(multiaddr(addr))
    const { agent, protocols } = await Promise.race([identity(connection.id).promise, expiry(IDENTIFY_MS)])
    return { event: 'dialed', peer: connection.remotePeer.toString(), agent, protocols }
  },
  hangup: async ({ peer }) => {
    await node.hangUp(peerIdFromString(peer))
    return { event: 'hungup', peer }
  },
  ping: async ({ peer }) => ({ event: 'pong', peer, rtt_ms: await node.services.ping.ping(peerIdFromString(peer)) }),
  subscribe: async ({ topic }) => {
    pubsub.subscribe(topic)
    return { event: 'subscribed', topic }
  },
  publish: async ({ topic, data }) => {
    const { recipients } = await pubsub.publish(topic, Buffer.from(data, 'base64'))
    return { event: 'published', topic, recipients: recipients.length }
  },
  send,
  provide: async ({ multihash }) => {
    await node.contentRouting.provide(content(multihash), { signal: AbortSignal.timeout(DHT_MS) })
    return { event: 'provided', multihash }
  },
  providers: async ({ multihash }) => {
    const peers = []
    try {
      const search = node.contentRouting.findProviders(content(multihash), { signal: AbortSignal.timeout(DHT_MS) })
      for await (const { id } of search) peers.push(id.toString())
    } catch (error) {
      if (error.name !== 'NotFoundError' && error.name !== 'AbortError') throw error
    }
    return { event: 'providers', multihash, peers }
  },
  ...streams.commands
}

pubsub.addEventListener('message', ({ detail: { topic, from, data } }) => {
  say('message', { topic, from: from?.toString(), data: Buffer.from(data).toString('base64') })
  streams.heard(topic, data).catch(error => say('error', { message: error.message }))
})
// So that a test publishes when the other side is known to listen, not after a sleep.
pubsub.addEventListener('subscription-change', ({ detail: { peerId, subscriptions } }) => {
  const peer = peerId.toString()
  for (const { topic, subscribe } of subscriptions) say(subscribe ? 'joined' : 'left', { peer, topic })
})
node.addEventListener('peer:identify', ({ detail: { peerId, agentVersion: agent, protocols, connection } }) => {
  identity(connection.id).resolve({ agent, protocols })
  say('identified', { peer: peerId.toString(), address: connection.remoteAddr.toString(), agent, protocols })
})
node.addEventListener('connection:close', ({ detail }) => identities.delete(detail.id))
node.addEventListener('peer:disconnect', ({ detail }) => say('disconnected', { peer: detail.toString() }))

say('ready', { peerId: node.peerId.toString(), addrs: node.getMultiaddrs().map(String) })

// One after the other, so that answers come in the order of the commands.
for await (const line of createInterface({ input: process.stdin })) {
  let cmd
  try {
    const command = JSON.parse(line)
    cmd = command.cmd
    if (!Object.hasOwn(commands, cmd)) throw new Error(`unknown command ${cmd}`)
    const { event, ...fields } = await commands[cmd](command)
    say(event, fields)
  } catch (error) {
    say('error', { cmd, name: error.name, message: error.message })
  }
}
await streams.close()
await node.stop()
process.exit()
