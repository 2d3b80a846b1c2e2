// The line format that all drivers share (tab separated; bytes are hex, null is ~, headers are name=hex;name=hex).
// Input: partition, timestamp, key, value, headers. Output: topic, partition, offset, then the same.
const assert = require('node:assert')
const { readFileSync } = require('node:fs')

exports.PARTITIONS = 3

const fromHex = text => (text === '~' ? null : Buffer.from(text, 'hex'))
const toHex = data => (data === null || data === undefined ? '~' : Buffer.from(data).toString('hex'))

exports.read = path =>
  readFileSync(path, 'utf8')
    .split('\n')
    .filter(Boolean)
    .map(line => {
      const [partition, timestamp, key, value, headers] = line.split('\t')
      const pairs = headers.split(';').filter(Boolean).map(h => h.split('='))
      return {
        partition: Number(partition),
        timestamp: Number(timestamp),
        key: fromHex(key),
        value: fromHex(value),
        headers: pairs.map(([name, data]) => [name, fromHex(data)])
      }
    })

exports.write = (topic, partition, offset, timestamp, key, value, headers) => {
  const text = headers.map(([name, data]) => `${name}=${toHex(data)}`).join(';')
  console.log([topic, partition, offset, timestamp, toHex(key), toHex(value), text].join('\t'))
}

exports.until = async (read, what, tries = 100) => {
  for (let i = 0; i < tries; i++) {
    if (await read()) return
    await new Promise(resolve => setTimeout(resolve, 50))
  }
  assert.fail(`${what}: not so after ${tries / 20} s`)
}

// Transactions over two partitions of which every third is aborted, and what is to be read of them, sorted.
exports.TRANSACTIONS = 10
exports.isAborted = number => number % 3 === 2
exports.committedValues = () => {
  const numbers = [...Array(exports.TRANSACTIONS).keys()].filter(i => !exports.isAborted(i))
  return numbers.flatMap(i => [`n${i}`, `n${i}`]).sort()
}

// Resolves when a line comes in, or the input ends.
exports.stopAsked = () => new Promise(resolve => {
  process.stdin.once('data', resolve)
  process.stdin.once('end', resolve)
})

// Commands: produce BOOTSTRAP FILE PREFIX CODECS | dump BOOTSTRAP TOPIC... | admin BOOTSTRAP PREFIX
// | group BOOTSTRAP TOPIC GROUP | txn BOOTSTRAP TOPIC
exports.main = commands => {
  const [name, boot, ...rest] = process.argv.slice(2)
  const run = {
    produce: () => commands.produce(boot, exports.read(rest[0]), rest[1], rest[2].split(',')),
    dump: () => commands.dump(boot, rest),
    admin: () => commands.admin(boot, rest[0]),
    group: () => commands.group(boot, rest[0], rest[1]),
    txn: () => commands.txn(boot, rest[0])
  }[name]
  assert(run, `unknown command ${name}`)
  run().catch(error => {
    console.error(error)
    process.exit(1)
  })
}
