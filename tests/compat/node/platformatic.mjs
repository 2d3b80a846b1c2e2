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

// It says its partitions when it has joined, and commits after each record.
async function group (boot, topic, groupId) {
  const consumer = new Consumer({
    clientId: 'compat', bootstrapBrokers: [boot], groupId, sessionTimeout: 6000, heartbeatInterval: 300,
    rebalanceTimeout: 10_000, retries: 1000, retryDelay: 50, connectTimeout: 1000, maxWaitTime: 100
  })
  consumer.on('consumer:group:join', ({ assignments }) => {
    const mine = (assignments ?? []).filter(a => a.topic === topic).flatMap(a => a.partitions)
    console.log(['owns', ...mine].join(' '))
  })
  const stream = await consumer.consume({ topics: [topic], mode: 'committed', fallbackMode: 'earliest', autocommit: false })
  const reading = (async () => {
    for await (const message of stream) {
      console.log(`read ${message.partition} ${message.offset}`)
      try {
        await message.commit()
      } catch (error) {
        console.error('commit:', error.message) // the group has moved on
      }
    }
  })()
  await lines.stopAsked()
  await stream.close()
  await reading
  await consumer.close()
}

async function txn (boot, topic) {
  const other = `${topic}-other`
  await withClient(admins(boot), admin => admin.createTopics({ topics: [topic, other], partitions: 2 }))
  const make = id => new Producer({
    clientId: 'compat', bootstrapBrokers: [boot], serializers: stringSerializers, idempotent: true, transactionalId: id
  })
  const producer = make(topic)
  const write = async (from, value, to = topic) => {
    const t = await from.beginTransaction()
    await t.send({ messages: [0, 1].map(partition => ({ topic: to, partition, value })), acks: -1 })
    return t
  }
  for (let i = 0; i < lines.TRANSACTIONS; i++) {
    const t = await write(producer, `n${i}`)
    await (lines.isAborted(i) ? t.abort() : t.commit())
  }
  // None is aborted: its consumer gives out aborted records, from Kafka as well, so Java reads the others.
  for (const number of ['one', 'three']) await (await write(producer, number, other)).commit()
  const options = {
    clientId: 'compat', bootstrapBrokers: [boot], groupId: topic, isolationLevel: 'READ_COMMITTED', maxWaitTime: 100
  }
  await withClient(new Consumer(options), async consumer => {
    const stream = await consumer.consume({ topics: [other], mode: 'earliest', autocommit: false })
    const want = ['one', 'one', 'three', 'three']
    const values = []
    let last
    for await (const message of stream) {
      values.push(message.value.toString())
      last = message.partition === 0 ? message : last
      if (values.length === want.length) break
    }
    assert.deepStrictEqual(values.sort(), want)
    const committed = async () => {
      const found = await consumer.listCommittedOffsets({ topics: [{ topic: other, partitions: [0] }] })
      return found.get(other)[0]
    }
    for (const commit of [false, true]) {
      const t = await write(producer, 'with an offset', other)
      await t.addConsumer(consumer)
      await t.addOffset(last)
      await (commit ? t.commit() : t.abort())
      const want = commit ? last.offset + 1n : -1n
      await lines.until(async () => (await committed()) === want, `the offset is ${want}`)
    }
    await stream.close()
  })
  // No zombie: a second life of its asks for producer id 0 in epoch 0, and is refused, by Kafka as well.
  await producer.close()
}

lines.main({ produce, dump, admin, group, txn })
