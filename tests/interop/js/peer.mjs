// A js-libp2p peer for the interop tests of p2pd: JSON commands on standard input, JSON events on standard output, one
// a line. It speaks the directory and the JSON audio the way the JavaScript peers do that p2pd has to get along with.
// README.md has the commands and the events.

import { createHash } from 'node:crypto'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { peerIdFromString } from '@libp2p/peer-id'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { byteStream } from '@libp2p/utils'
import { webSockets } from '@libp2p/websockets'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const HEARTBEAT_MS = 30_000
const MIB = 1024 * 1024

const say = (event, fields = {}) => process.stdout.write(JSON.stringify({ event, ...fields }) + '\n')

const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0', '/ip4/127.0.0.1/tcp/0/ws'] },
  transports: [tcp(), webSockets()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: {
    identify: identify(),
    ping: ping(),
    // Announcing before anyone listens is no mistake: a query finds the stream later.
    pubsub: gossipsub({ allowPublishToZeroTopicPeers: true })
  }
})
const me = node.peerId.toString()
const { pubsub } = node.services

// Streams

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

// A handler that throws would take the process with it; the other side of a broken stream should hear of it instead.
const handle = (protocol, handler) =>
  node.handle(protocol, stream => handler(stream).catch(error => stream.abort(error)))

await handle('/p2pd-test/echo/1', async stream => {
  for await (const chunk of chunks(stream)) await write(stream, chunk)
  await stream.close()
})

await handle('/p2pd-test/sink/1', async stream => {
  let bytes = 0
  for await (const chunk of chunks(stream)) bytes += chunk.length
  await write(stream, new TextEncoder().encode(`${bytes}`))
  await stream.close()
})

// 1 MiB in which byte n is n mod 251: a prime, so that pieces swapped or lost change the hash.
const PATTERN = Uint8Array.from({ length: MIB }, (_, n) => n % 251)

async function send ({ peer, protocol, mib = 20 }) {
  const stream = await node.dialProtocol(peerIdFromString(peer), protocol)
  const sent = createHash('sha256')
  const writing = async () => {
    for (let n = 0; n < mib; n++) {
      sent.update(PATTERN)
      await write(stream, PATTERN)
    }
    await stream.close() // closes the writing side only
  }
  const answer = createHash('sha256')
  let bytes = 0
  let text = ''
  const reading = async () => {
    for await (const chunk of chunks(stream)) {
      answer.update(chunk)
      bytes += chunk.length
      if (bytes <= 64) text += new TextDecoder().decode(chunk)
    }
  }
  // At the same time: an echo that nobody reads would fill both windows and stop.
  await Promise.all([writing(), reading()])
  const answered = { answer_bytes: bytes, answer_sha256: answer.digest('hex'), ...(bytes <= 64 && { answer: text }) }
  return { event: 'sent', bytes: mib * MIB, sha256: sent.digest('hex'), ...answered }
}

// Directory and audio

const own = new Map() // by directory topic and stream: what this peer has announced

const directory = network => `${network}/stream-directory`
const publish = (topic, message) => pubsub.publish(topic, new TextEncoder().encode(JSON.stringify(message)))

async function announce ({ network, stream, name = stream, fields = {} }) {
  const topic = directory(network)
  pubsub.subscribe(topic)
  const metadata = {
    ...fields,
    name,
    topic: `${network}/stream/${stream}`,
    publisher: me,
    publisherAddrs: node.getMultiaddrs().map(String),
    timestamp: Date.now()
  }
  const beat = () => publish(topic, { type: 'heartbeat', streamId: stream, publisher: me, timestamp: Date.now() })
  clearInterval(own.get(`${topic} ${stream}`)?.timer)
  own.set(`${topic} ${stream}`, { topic, streamId: stream, metadata, timer: setInterval(beat, HEARTBEAT_MS) })
  const { recipients } = await publish(topic, { type: 'announce', streamId: stream, metadata })
  return { event: 'announced', stream, recipients: recipients.length }
}

async function deregister ({ network, stream }) {
  const topic = directory(network)
  clearInterval(own.get(`${topic} ${stream}`)?.timer)
  own.delete(`${topic} ${stream}`)
  const message = { type: 'deregister', streamId: stream, publisher: me, timestamp: Date.now() }
  const { recipients } = await publish(topic, message)
  return { event: 'deregistered', stream, recipients: recipients.length }
}

async function answer (topic, { filter = {}, requestId }) {
  const matches = ({ metadata }) =>
    (filter.publisher == null || filter.publisher === me) &&
    (filter.system == null || filter.system === metadata.system_name) &&
    (filter.category == null || filter.category === metadata.category)
  const streams = [...own.values()].filter(entry => entry.topic === topic && matches(entry))
    .map(({ streamId, metadata }) => ({ streamId, metadata }))
  if (streams.length > 0) await publish(topic, { type: 'response', requestId, streams, from: me, timestamp: Date.now() })
}

// Byte k of slice n is n + k mod 256.
async function audio ({ network, stream, count, size = 4096, interval_ms = 20, end = false }) {
  const topic = `${network}/stream/${stream}`
  const put = (type, fields) => publish(topic, { type, streamId: stream, ...fields, timestamp: Date.now() })
  const metadata = own.get(`${directory(network)} ${stream}`)?.metadata ?? { name: stream }
  let { recipients } = await put('metadata', { metadata })
  for (let n = 0; n < count; n++) {
    const chunk = Buffer.from(Uint8Array.from({ length: size }, (_, k) => n + k)).toString('base64')
    recipients = (await put('audio', { chunk })).recipients
    await sleep(interval_ms) // as live sound would come
  }
  if (end) await put('end', { totalBytes: count * size, totalChunks: count, reason: 'ended' })
  return { event: 'audio', stream, count, recipients: recipients.length }
}

// Commands and events

const commands = {
  dial: async ({ addr }) => {
    const connection = await node.dial(multiaddr(addr))
    const { agentVersion, protocols } = await node.services.identify.identify(connection)
    return { event: 'dialed', peer: connection.remotePeer.toString(), agent: agentVersion, protocols }
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
  send, announce, deregister, audio
}

pubsub.addEventListener('message', ({ detail: { topic, from, data } }) => {
  say('message', { topic, from: from?.toString(), data: Buffer.from(data).toString('base64') })
  if (!topic.endsWith('/stream-directory')) return
  try {
    const message = JSON.parse(new TextDecoder().decode(data))
    if (message.type === 'query') answer(topic, message).catch(error => say('error', { message: error.message }))
  } catch { /* not ours to judge; the test sees the message itself */ }
})
// A test publishes when the other side is known to listen, not after a sleep.
pubsub.addEventListener('subscription-change', ({ detail: { peerId, subscriptions } }) => {
  for (const { topic, subscribe } of subscriptions) say(subscribe ? 'joined' : 'left', { peer: peerId.toString(), topic })
})
node.addEventListener('peer:identify', ({ detail: { peerId, agentVersion, protocols } }) =>
  say('identified', { peer: peerId.toString(), agent: agentVersion, protocols }))
node.addEventListener('peer:disconnect', ({ detail }) => say('disconnected', { peer: detail.toString() }))

say('ready', { peerId: me, addrs: node.getMultiaddrs().map(String) })

// One after the other, so that answers come in the order of the commands.
for await (const line of createInterface({ input: process.stdin })) {
  let cmd
  try {
    const fields = JSON.parse(line)
    cmd = fields.cmd
    if (!Object.hasOwn(commands, cmd)) throw new Error(`unknown command ${cmd}`)
    const { event, ...rest } = await commands[cmd](fields)
    say(event, rest)
  } catch (error) {
    say('error', { cmd, name: error.name, message: error.message })
  }
}

// A publisher that stops says so.
for (const { topic, streamId } of own.values()) {
  await publish(topic, { type: 'deregister', streamId, publisher: me, timestamp: Date.now() })
}
await node.stop()
process.exit()
