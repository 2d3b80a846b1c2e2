// kafkajs. Its consumer reads through groups only, so `dump` asks its own broker connection for Fetch and ListOffsets.
const assert = require('node:assert')
const { CompressionCodecs, CompressionTypes, Kafka, logLevel } = require('kafkajs')
const Cluster = require('kafkajs/src/cluster')
const { createLogger } = require('kafkajs/src/loggers')
const LoggerConsole = require('kafkajs/src/loggers/console')
const socketFactory = require('kafkajs/src/network/socketFactory')
const snappy = require('kafkajs-snappy')
const wasm = require('@platformatic/wasm-utils')
const { ZstdCodec } = require('zstd-codec')
const lines = require('./lines.cjs')

const PATIENCE_MS = 60_000
const T0 = Date.now() - 3_600_000 // retention spares it
const types = {
  none: CompressionTypes.None,
  gzip: CompressionTypes.GZIP,
  snappy: CompressionTypes.Snappy,
  lz4: CompressionTypes.LZ4,
  zstd: CompressionTypes.ZSTD
}

async function registerCodecs () {
  const zstd = await new Promise(resolve => ZstdCodec.run(resolve))
  const simple = new zstd.Simple()
  const streaming = new zstd.Streaming() // frames from Java do not tell their size
  CompressionCodecs[types.snappy] = snappy
  CompressionCodecs[types.lz4] = () => ({
    compress: async encoder => wasm.lz4Compress(encoder.buffer),
    decompress: async buffer => wasm.lz4Decompress(buffer)
  })
  CompressionCodecs[types.zstd] = () => ({
    compress: async encoder => Buffer.from(simple.compress(encoder.buffer)),
    decompress: async buffer => Buffer.from(streaming.decompress(buffer))
  })
}

const client = boot => new Kafka({ brokers: [boot], logLevel: logLevel.ERROR })

async function withAdmin (boot, work) {
  const admin = client(boot).admin()
  await admin.connect()
  try {
    return await work(admin)
  } finally {
    await admin.disconnect()
  }
}

async function produce (boot, records, prefix, codecs) {
  await registerCodecs()
  const messages = records.map(r => ({
    ...r,
    timestamp: String(r.timestamp),
    headers: Object.fromEntries(r.headers)
  }))
  for (const [number, codec] of codecs.entries()) {
    const topic = `${prefix}-${codec}`
    await withAdmin(boot, admin => admin.createTopics({ topics: [{ topic, numPartitions: lines.PARTITIONS }] }))
    const producer = client(boot).producer({ idempotent: number % 2 === 0, maxInFlightRequests: 1 })
    await producer.connect()
    for (let i = 0; i < messages.length; i += 100) {
      await producer.send({ topic, acks: -1, compression: types[codec], messages: messages.slice(i, i + 100) })
    }
    await producer.disconnect()
  }
}

async function dump (boot, topics) {
  await registerCodecs()
  const logger = createLogger({ level: logLevel.ERROR, logCreator: LoggerConsole })
  const cluster = new Cluster({
    logger,
    socketFactory: socketFactory(),
    brokers: [boot],
    clientId: 'dump',
    connectionTimeout: 5000,
    metadataMaxAge: 300_000
  })
  await cluster.connect()
  await cluster.addMultipleTargetTopics(topics)
  for (const topic of topics) {
    for (const { partitionId: partition, leader } of cluster.findTopicPartitionMetadata(topic)) {
      const broker = await cluster.findBroker({ nodeId: leader })
      await dumpPartition(cluster, broker, topic, partition)
    }
  }
  await cluster.disconnect()
}

async function dumpPartition (cluster, broker, topic, partition) {
  const [{ partitions: [{ offset }] }] = await cluster.fetchTopicsOffset([
    { topic, fromBeginning: false, partitions: [{ partition }] }
  ])
  const deadline = Date.now() + PATIENCE_MS
  let next = 0n
  while (next < BigInt(offset)) {
    assert(Date.now() < deadline, `reading stands still at ${next} of ${offset}`)
    const part = { partition, fetchOffset: String(next), maxBytes: 1 << 20, currentLeaderEpoch: -1 }
    const { responses } = await broker.fetch({
      replicaId: -1,
      isolationLevel: 1,
      maxWaitTime: 500,
      topics: [{ topic, partitions: [part] }]
    })
    for (const m of responses[0].partitions[0].messages) {
      if (BigInt(m.offset) < next) continue
      assert.strictEqual(BigInt(m.offset), next)
      lines.write(topic, partition, m.offset, m.timestamp, m.key, m.value, Object.entries(m.headers))
      next += 1n
    }
  }
}

async function admin (boot, prefix) {
  const topic = `${prefix}-topic`
  await withAdmin(boot, async admin => {
    const create = () => admin.createTopics({ topics: [{ topic, numPartitions: 2 }], waitForLeaders: true })
    assert.strictEqual(await create(), true)
    assert.strictEqual(await create(), false, 'the same topic again')
    assert((await admin.listTopics()).includes(topic))
    await admin.createPartitions({ topicPartitions: [{ topic, count: 4 }] })
    const count = async () => (await admin.fetchTopicMetadata({ topics: [topic] })).topics[0].partitions.length
    await lines.until(async () => (await count()) === 4, '4 partitions')
    const producer = client(boot).producer()
    await producer.connect()
    const messages = [1, 2, 3].map(i => ({ partition: 0, value: `v${i}`, timestamp: String(T0 + i) }))
    const [{ baseOffset, errorCode }] = await producer.send({ topic, messages })
    assert.deepStrictEqual([baseOffset, errorCode], ['0', 0])
    await producer.disconnect()
    const offsets = await admin.fetchTopicOffsets(topic)
    assert.deepStrictEqual(offsets.find(o => o.partition === 0), { partition: 0, offset: '3', high: '3', low: '0' })
    const byTime = await admin.fetchTopicOffsetsByTimestamp(topic, T0 + 2)
    assert.strictEqual(byTime.find(o => o.partition === 0).offset, '1')
    await admin.deleteTopicRecords({ topic, partitions: [{ partition: 0, offset: '2' }] })
    const low = (await admin.fetchTopicOffsets(topic)).find(o => o.partition === 0).low
    assert.strictEqual(low, '2')
    const configs = await admin.describeConfigs({ includeSynonyms: false, resources: [{ type: 2, name: topic }] })
    assert(configs.resources[0].configEntries.some(e => e.configName === 'retention.ms'))
    assert.strictEqual((await admin.describeCluster()).brokers.length, 1)
    await admin.deleteTopics({ topics: [topic] })
    await lines.until(async () => !(await admin.listTopics()).includes(topic), 'the deleted topic is gone')
  })
}

async function group (boot, topic, groupId) {
  const retry = { retries: 1000, initialRetryTime: 50, maxRetryTime: 500 }
  const consumer = new Kafka({ brokers: [boot], logLevel: logLevel.NOTHING, retry })
    .consumer({ groupId, sessionTimeout: 6000, heartbeatInterval: 300, maxWaitTimeInMs: 100, retry })
  consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
    console.log(['owns', ...(payload.memberAssignment[topic] ?? [])].join(' '))
  })
  await consumer.connect()
  await consumer.subscribe({ topic, fromBeginning: true })
  // It commits after each batch by itself.
  await consumer.run({
    eachMessage: async ({ partition, message }) => console.log(`read ${partition} ${message.offset}`)
  })
  await lines.stopAsked()
  await consumer.disconnect()
  process.exit(0)
}

async function txn (boot, topic) {
  await withAdmin(boot, admin => admin.createTopics({ topics: [{ topic, numPartitions: 2 }] }))
  const make = async () => {
    const producer = client(boot).producer({
      idempotent: true, maxInFlightRequests: 1, transactionalId: topic, transactionTimeout: 20_000
    })
    await producer.connect()
    return producer
  }
  const producer = await make()
  const write = async value => {
    const t = await producer.transaction()
    await t.send({ topic, messages: [0, 1].map(partition => ({ partition, value })) })
    return t
  }
  for (let i = 0; i < lines.TRANSACTIONS; i++) {
    const t = await write(`n${i}`)
    await (lines.isAborted(i) ? t.abort() : t.commit())
  }
  const values = []
  const consumer = client(boot).consumer({ groupId: topic, maxWaitTimeInMs: 100 })
  await consumer.connect()
  await consumer.subscribe({ topic, fromBeginning: true })
  await consumer.run({ autoCommit: false, eachMessage: async ({ message }) => values.push(message.value.toString()) })
  const want = lines.committedValues()
  await lines.until(async () => values.length >= want.length, 'all that is committed was read', 600)
  await consumer.disconnect()
  assert.deepStrictEqual(values.sort(), want)

  for (const [offset, commit, expected] of [['3', false, '-1'], ['5', true, '5']]) {
    const t = await producer.transaction()
    const topics = [{ topic, partitions: [{ partition: 0, offset }] }]
    await t.sendOffsets({ consumerGroupId: topic, topics })
    await (commit ? t.commit() : t.abort())
    const committed = async () => {
      const found = await withAdmin(boot, admin => admin.fetchOffsets({ groupId: topic, topics: [topic] }))
      return found[0].partitions.find(p => p.partition === 0).offset
    }
    await lines.until(async () => (await committed()) === expected, `the offset is ${expected}`)
  }
  const zombie = await write('lost')
  const next = await make()
  const t = await next.transaction()
  await assert.rejects(zombie.commit(), 'a zombie commits')
  await t.abort()
  await next.disconnect()
  await producer.disconnect()
}

lines.main({ produce, dump, admin, group, txn })
