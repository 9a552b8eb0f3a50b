// The stream directory and the JSON audio, the way the JavaScript peers speak them that p2pd has to get along with.

import { setTimeout as sleep } from 'node:timers/promises'

const HEARTBEAT_MS = 30_000

export function directory (node) {
  const me = node.peerId.toString()
  const { pubsub } = node.services
  const own = new Map() // what this peer has announced, by network and stream

  const topicOf = network => `${network}/stream-directory`
  const nameOf = (network, stream) => `${network}/stream/${stream}`
  const publish = async (topic, message) => {
    const { recipients } = await pubsub.publish(topic, new TextEncoder().encode(JSON.stringify(message)))
    return recipients.length
  }
  const about = (type, streamId) => ({ type, streamId, publisher: me, timestamp: Date.now() })

  async function announce ({ network, stream, name = stream, fields = {} }) {
    const topic = topicOf(network)
    const key = nameOf(network, stream)
    const metadata = {
      ...fields,
      name,
      topic: key,
      publisher: me,
      publisherAddrs: node.getMultiaddrs().map(String),
      timestamp: Date.now()
    }
    const beat = () => publish(topic, about('heartbeat', stream)).catch(() => {}) // the next one may get through
    clearInterval(own.get(key)?.timer)
    own.set(key, { network, stream, metadata, timer: setInterval(beat, HEARTBEAT_MS) })
    pubsub.subscribe(topic) // to hear queries
    const recipients = await publish(topic, { type: 'announce', streamId: stream, metadata })
    return { event: 'announced', stream, recipients }
  }

  async function deregister ({ network, stream }) {
    const key = nameOf(network, stream)
    clearInterval(own.get(key)?.timer)
    own.delete(key)
    return { event: 'deregistered', stream, recipients: await publish(topicOf(network), about('deregister', stream)) }
  }

  /** Answers a query, should `data` be one. */
  async function heard (topic, data) {
    if (!topic.endsWith('/stream-directory')) return
    const { type, filter = {}, requestId } = JSON.parse(new TextDecoder().decode(data))
    if (type !== 'query') return
    const fits = (wanted, value) => wanted == null || wanted === value
    const streams = [...own.values()]
      .filter(({ network, metadata }) => topicOf(network) === topic && fits(filter.publisher, me) &&
        fits(filter.system, metadata.system_name) && fits(filter.category, metadata.category))
      .map(({ stream, metadata }) => ({ streamId: stream, metadata }))
    if (streams.length === 0) return
    await publish(topic, { type: 'response', requestId, streams, from: me, timestamp: Date.now() })
  }

  /** Byte k of slice n is n + k mod 256. */
  async function audio ({ network, stream, count, size = 4096, interval_ms: interval = 20, end = false }) {
    const topic = nameOf(network, stream)
    const put = (type, rest) => publish(topic, { type, streamId: stream, ...rest, timestamp: Date.now() })
    let recipients = await put('metadata', { metadata: own.get(topic)?.metadata ?? { name: stream } })
    for (let n = 0; n < count; n++) {
      const chunk = Buffer.from(Array.from({ length: size }, (_, k) => (n + k) % 256))
      recipients = await put('audio', { chunk: chunk.toString('base64') })
      await sleep(interval) // as live sound would come
    }
    if (end) await put('end', { totalBytes: count * size, totalChunks: count, reason: 'ended' })
    return { event: 'audio', stream, count, recipients }
  }

  /** A publisher that stops says so. */
  const close = () => Promise.all([...own.values()].map(deregister))

  return { commands: { announce, deregister, audio }, heard, close }
}
