"""librdkafka, through confluent-kafka."""

import sys
import time

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic, OffsetSpec)

import lines

PATIENCE_S = 60
T0 = int(time.time() * 1000) - 3_600_000  # retention spares it


def create(admin, topic, partitions=lines.PARTITIONS):
    admin.create_topics([NewTopic(topic, partitions)])[topic].result(30)


def produce(boot, records, prefix, codecs):
    admin = AdminClient({"bootstrap.servers": boot})
    for number, codec in enumerate(codecs):
        topic = f"{prefix}-{codec}"
        create(admin, topic)
        # Every second codec idempotent, the others as librdkafka has it by default.
        producer = Producer({"bootstrap.servers": boot, "compression.codec": codec, "linger.ms": 20,
                             "enable.idempotence": number % 2 == 0})
        failures = []
        for r in records:
            producer.produce(topic, value=r.value, key=r.key, partition=r.partition, timestamp=r.timestamp,
                             headers=r.headers, on_delivery=lambda e, m: e and failures.append(e))
        lines.same(producer.flush(30), 0, "records still in the queue")
        lines.same(failures, [], "failed deliveries")


def dump(boot, topics):
    consumer = Consumer({"bootstrap.servers": boot, "group.id": "unused", "enable.auto.commit": False,
                         "auto.offset.reset": "error", "check.crcs": True})
    parts = [TopicPartition(t, p, OFFSET_BEGINNING) for t in topics
             for p in consumer.list_topics(t, 30).topics[t].partitions]
    left = 0
    for part in parts:
        low, high = consumer.get_watermark_offsets(part, 30)
        left += high - low
    consumer.assign(parts)
    deadline = time.monotonic() + PATIENCE_S
    while left > 0:
        assert time.monotonic() < deadline, f"{left} records are still missing"
        for m in consumer.consume(1000, 1):
            if m.error():
                raise KafkaException(m.error())
            lines.write(m.topic(), m.partition(), m.offset(), m.timestamp()[1], m.key(), m.value(), m.headers())
            left -= 1
    consumer.close()


def await_value(read, want, what):
    """Changes may be applied a moment after they are answered."""
    for _ in range(100):
        got = read()
        if got == want:
            return
        time.sleep(0.05)
    lines.same(got, want, what)


def admin(boot, prefix):
    client = AdminClient({"bootstrap.servers": boot})
    topic = f"{prefix}-topic"
    create(client, topic, 2)
    await_value(lambda: topic in client.list_topics(timeout=10).topics, True, "listed topics")
    client.create_partitions([NewPartitions(topic, 4)])[topic].result(30)
    await_value(lambda: len(client.list_topics(topic, 10).topics[topic].partitions), 4, "partitions")

    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    entry = ConfigEntry("max.message.bytes", "54321", incremental_operation=AlterConfigOpType.SET)
    client.incremental_alter_configs([ConfigResource(ConfigResource.Type.TOPIC, topic,
                                                     incremental_configs=[entry])])[resource].result(30)
    await_value(lambda: client.describe_configs([resource])[resource].result(30)["max.message.bytes"].value,
                "54321", "max.message.bytes")

    producer = Producer({"bootstrap.servers": boot})
    for i in range(10):
        producer.produce(topic, b"x" * i, partition=0, timestamp=T0 + i)
    lines.same(producer.flush(30), 0, "records still in the queue")
    part = TopicPartition(topic, 0)
    for spec, want in [(OffsetSpec.earliest(), 0), (OffsetSpec.latest(), 10), (OffsetSpec.max_timestamp(), 9),
                       (OffsetSpec.for_timestamp(T0 + 4), 4)]:
        lines.same(client.list_offsets({part: spec})[part].result(30).offset, want, f"offset by {spec}")
    low = client.delete_records([TopicPartition(topic, 0, 6)])[part].result(30).low_watermark
    lines.same(low, 6, "low watermark after delete_records")
    nodes = client.describe_cluster().result(30).nodes
    lines.same(len(nodes), 1, "nodes")
    client.delete_topics([topic])[topic].result(30)
    await_value(lambda: topic in client.list_topics(timeout=10).topics, False, "listed topics after the deletion")


def group(boot, topic, name, instance="-", protocol="classic"):
    config = {"bootstrap.servers": boot, "group.id": name, "auto.offset.reset": "earliest",
              "enable.auto.commit": False, "reconnect.backoff.max.ms": 500, "group.protocol": protocol}
    if protocol == "classic":
        # Who has a name comes back within its session, however long its process takes to start.
        config |= {"session.timeout.ms": 6000 if instance == "-" else 30000, "heartbeat.interval.ms": 300,
                   "partition.assignment.strategy": "cooperative-sticky"}
    if instance != "-":
        config["group.instance.id"] = instance
    consumer = Consumer(config)
    owned = lines.Owned()

    def lose(_, parts):
        owned.change(less=[p.partition for p in parts])
    consumer.subscribe([topic], on_assign=lambda _, parts: owned.change([p.partition for p in parts]),
                       on_revoke=lose, on_lost=lose)
    stop = lines.stop_asked()
    while not stop.is_set():
        records = [m for m in consumer.consume(500, 0.1) if not m.error()]
        for m in records:
            lines.say_read(m.partition(), m.offset())
        try:
            if records:
                consumer.commit(asynchronous=False)
        except KafkaException as e:  # the group has moved on
            print("commit:", e, file=sys.stderr)
    consumer.close()


def txn(boot, topic):
    """Ten transactions of which every third is aborted; offsets in one; then a zombie."""
    create(AdminClient({"bootstrap.servers": boot}), topic, 2)
    config = {"bootstrap.servers": boot, "transactional.id": topic, "transaction.timeout.ms": 20_000}
    producer = Producer(config)
    producer.init_transactions(30)

    def write(value):
        producer.begin_transaction()
        for partition in range(2):
            producer.produce(topic, value=value, partition=partition)
    for i in range(10):
        write(f"n{i}")
        if i % 3 == 2:
            producer.flush(30)
            producer.abort_transaction(30)
        else:
            producer.commit_transaction(30)

    consumer = Consumer({"bootstrap.servers": boot, "group.id": topic, "enable.auto.commit": False,
                         "auto.offset.reset": "earliest", "isolation.level": "read_committed"})
    consumer.subscribe([topic])
    values = []
    deadline = time.monotonic() + PATIENCE_S
    while len(values) < 14:
        assert time.monotonic() < deadline, f"only {values}"
        values += [m.value().decode() for m in consumer.consume(100, 0.2) if not m.error()]
    lines.same(sorted(values), sorted(f"n{i}" for i in range(10) if i % 3 != 2 for _ in range(2)), "committed")
    place = TopicPartition(topic, 0)
    for offset, commit in (3, False), (5, True):
        producer.begin_transaction()
        producer.send_offsets_to_transaction([TopicPartition(topic, 0, offset)],
                                             consumer.consumer_group_metadata(), 30)
        if commit:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)
        lines.same(consumer.committed([place], 30)[0].offset, 5 if commit else -1001, "the offset")
    consumer.close()

    write("lost")
    producer.flush(30)
    Producer(config).init_transactions(30)
    try:
        producer.commit_transaction(30)
    except KafkaException as e:
        assert e.args[0].fatal(), e
    else:
        raise AssertionError("a zombie commits")


if __name__ == "__main__":
    lines.main(produce, dump, admin, group, txn)
