// @platformatic/kafka: Producer, Admin, and the Consumer's fetch, which needs no group.
import assert from 'node:assert'
import {
  Admin, Consumer, ListOffsetTimestamps, Producer, compressionsAlgorithms, stringSerializers
} from '@platformatic/kafka'
import lines from './lines.cjs'

const PATIENCE_MS = 60_000

async function withClient (client, work) {
  try {
    return await work(client)
  } finally {
    await client.close()
  }
}

const admins = boot => new Admin({ clientId: 'compat', bootstrapBrokers: [boot] })

async function produce (boot, records, prefix, codecs) {
  for (const [number, codec] of codecs.entries()) {
    if (!(compressionsAlgorithms[codec]?.available ?? true)) {
      console.log(`lacks ${codec}`)
      continue
    }
    const topic = `${prefix}-${codec}`
    await withClient(admins(boot), admin => admin.createTopics({ topics: [topic], partitions: lines.PARTITIONS }))
    const options = { clientId: 'compat', bootstrapBrokers: [boot], compression: codec, idempotent: number % 2 === 0 }
    await withClient(new Producer(options), async producer => {
      for (let i = 0; i < records.length; i += 100) {
        const messages = records.slice(i, i + 100).map(r => ({
          topic,
          partition: r.partition,
          timestamp: BigInt(r.timestamp),
          key: r.key ?? undefined,
          value: r.value ?? undefined,
          headers: new Map(r.headers.map(([name, data]) => [Buffer.from(name), data]))
        }))
        await producer.send({ messages, acks: -1 })
      }
    })
  }
}

async function dump (boot, topics) {
  const options = { clientId: 'compat', bootstrapBrokers: [boot], groupId: 'unused', isolationLevel: 'READ_COMMITTED' }
  await withClient(new Consumer(options), async consumer => {
    consumer.topics.trackAll(...topics)
    const metadata = await consumer.metadata({ topics })
    const ends = await consumer.listOffsets({ topics, timestamp: ListOffsetTimestamps.LATEST })
    for (const topic of topics) {
      const { id, partitions } = metadata.topics.get(topic)
      for (const [index, { leader }] of partitions.entries()) {
        await dumpPartition(consumer, leader, { topic, id, index, end: ends.get(topic)[index] })
      }
    }
  })
}

async function dumpPartition (consumer, node, { topic, id, index, end }) {
  const deadline = Date.now() + PATIENCE_MS
  let next = 0n
  while (next < end) {
    assert(Date.now() < deadline, `reading stands still at ${next} of ${end}`)
    const part = { partition: index, currentLeaderEpoch: -1, fetchOffset: next, lastFetchedEpoch: -1, partitionMaxBytes: 1 << 20 }
    const answer = await consumer.fetch({ node, maxWaitTime: 500, topics: [{ topicId: id, partitions: [part] }] })
    for (const batch of answer.responses[0].partitions[0].records ?? []) {
      for (const r of batch.records) {
        const offset = batch.firstOffset + BigInt(r.offsetDelta)
        if (offset < next) continue
        assert.strictEqual(offset, next)
        lines.write(topic, index, offset, batch.firstTimestamp + r.timestampDelta, r.key, r.value, r.headers)
        next += 1n
      }
    }
  }
}

async function admin (boot, prefix) {
  const topic = `${prefix}-topic`
  await withClient(admins(boot), async admin => {
    const [created] = await admin.createTopics({ topics: [topic], partitions: 2 })
    assert.strictEqual(created.partitions, 2)
    await lines.until(async () => (await admin.listTopics()).includes(topic), 'the new topic is listed')
    await admin.createPartitions({ topics: [{ name: topic, count: 4, assignments: null }] })
    const read = async () => (await admin.metadata({ topics: [topic], forceUpdate: true })).topics.get(topic)
    await lines.until(async () => (await read()).partitionsCount === 4, '4 partitions')
    const listed = await admin.listOffsets({ topics: [{ name: topic, partitions: [{ partitionIndex: 0, timestamp: -1n }] }] })
    assert.strictEqual(listed[0].partitions[0].offset, 0n)
    await admin.deleteTopics({ topics: [topic] })
    await lines.until(async () => !(await admin.listTopics()).includes(topic), 'the deleted topic is gone')
  })
}

lines.main({ produce, dump, admin })
