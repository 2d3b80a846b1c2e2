"""aiokafka."""

import asyncio
import sys
import time

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

import lines

PATIENCE_S = 60


async def create(boot, topic, partitions=lines.PARTITIONS):
    client = AIOKafkaAdminClient(bootstrap_servers=boot)
    await client.start()
    try:
        answer = await client.create_topics([NewTopic(topic, partitions, 1)])
        assert all(error[1] == 0 for error in answer.topic_errors), answer
    finally:
        await client.close()


async def produce(boot, records, prefix, codecs):
    for number, codec in enumerate(codecs):
        topic = f"{prefix}-{codec}"
        await create(boot, topic)
        producer = AIOKafkaProducer(bootstrap_servers=boot, linger_ms=20, acks="all",
                                    compression_type=None if codec == "none" else codec,
                                    enable_idempotence=number % 2 == 0)
        await producer.start()
        try:
            sent = [await producer.send(topic, value=r.value, key=r.key, headers=r.headers, partition=r.partition,
                                        timestamp_ms=r.timestamp) for r in records]
            await producer.flush()
            for r, future in zip(records, sent):
                lines.same((await future).partition, r.partition, "partition of the acknowledgement")
        finally:
            await producer.stop()


async def dump(boot, topics):
    consumer = AIOKafkaConsumer(bootstrap_servers=boot, enable_auto_commit=False, auto_offset_reset="none",
                                group_id=None, check_crcs=True)
    await consumer.start()
    try:
        parts = []
        for topic in topics:
            await consumer._client._wait_on_metadata(topic)
            parts += [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic))]
        consumer.assign(parts)
        ends = await consumer.end_offsets(parts)
        for part, start in (await consumer.beginning_offsets(parts)).items():
            consumer.seek(part, start)
        deadline = time.monotonic() + PATIENCE_S
        while any([await consumer.position(p) < ends[p] for p in parts]):
            assert time.monotonic() < deadline, "reading stands still before the end offsets"
            for batch in (await consumer.getmany(timeout_ms=500, max_records=5000)).values():
                for r in batch:
                    lines.write(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, r.headers)
    finally:
        await consumer.stop()


async def await_listed(client, topic, want):
    for _ in range(100):
        if (topic in await client.list_topics()) == want:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{topic} listed: expected {want}")


async def admin(boot, prefix):
    topic = f"{prefix}-topic"
    await create(boot, topic, 2)
    client = AIOKafkaAdminClient(bootstrap_servers=boot)
    await client.start()
    try:
        await await_listed(client, topic, True)
        described = await client.describe_topics([topic])
        lines.same(len(described[0]["partitions"]), 2, "partitions")
        lines.same(len((await client.describe_cluster())["brokers"]), 1, "nodes")
        await client.delete_topics([topic])
        await await_listed(client, topic, False)
    finally:
        await client.close()


class Listener(ConsumerRebalanceListener):
    def __init__(self):
        self.owned = lines.Owned()

    def on_partitions_assigned(self, assigned):
        self.owned.change([p.partition for p in assigned])

    def on_partitions_revoked(self, revoked):
        self.owned.change(less=[p.partition for p in revoked])


async def group(boot, topic, name):
    consumer = AIOKafkaConsumer(bootstrap_servers=boot, group_id=name, enable_auto_commit=False,
                                auto_offset_reset="earliest", session_timeout_ms=6000, heartbeat_interval_ms=300)
    consumer.subscribe([topic], listener=Listener())
    await consumer.start()
    stop = lines.stop_asked()
    while not stop.is_set():
        records = [r for batch in (await consumer.getmany(timeout_ms=100)).values() for r in batch]
        for r in records:
            lines.say_read(r.partition, r.offset)
        try:
            if records:
                await consumer.commit()
        except KafkaError as e:  # the group has moved on
            print("commit:", e, file=sys.stderr)
    await consumer.stop()


async def txn(boot, topic):
    """Ten transactions of which every third is aborted; offsets in one; then a zombie."""
    await create(boot, topic, 2)

    async def begin():
        producer = AIOKafkaProducer(bootstrap_servers=boot, transactional_id=topic)
        await producer.start()
        return producer
    producer = await begin()

    async def write(value):
        await producer.begin_transaction()
        for partition in range(2):
            await producer.send_and_wait(topic, value=value.encode(), partition=partition)
    for i in range(10):
        await write(f"n{i}")
        if i % 3 == 2:
            await producer.abort_transaction()
        else:
            await producer.commit_transaction()

    place = TopicPartition(topic, 0)
    reader = AIOKafkaConsumer(bootstrap_servers=boot, group_id=topic, enable_auto_commit=False)
    await reader.start()
    for offset, commit in (3, False), (5, True):
        await producer.begin_transaction()
        await producer.send_offsets_to_transaction({place: offset}, topic)
        await (producer.commit_transaction() if commit else producer.abort_transaction())
        lines.same(await reader.committed(place), 5 if commit else None, "the offset")
    await reader.stop()

    await write("lost")
    after = await begin()
    try:
        await producer.commit_transaction()
    except KafkaError:
        pass
    else:
        raise AssertionError("a zombie commits")
    await after.stop()
    try:
        await producer.stop()
    except KafkaError:  # it is fenced
        pass


if __name__ == "__main__":
    lines.main(*(lambda *args, f=f: asyncio.run(f(*args)) for f in (produce, dump, admin, group, txn)))
