"""kafka-python."""

import sys
import time

from kafka import ConsumerRebalanceListener, KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic
from kafka.errors import KafkaError

import lines

PATIENCE_S = 60


def create(boot, topic, partitions=lines.PARTITIONS):
    client = KafkaAdminClient(bootstrap_servers=boot)
    client.create_topics([NewTopic(topic, partitions, 1)])
    client.close()


def produce(boot, records, prefix, codecs):
    for codec in codecs:
        topic = f"{prefix}-{codec}"
        create(boot, topic)
        producer = KafkaProducer(bootstrap_servers=boot, compression_type=None if codec == "none" else codec,
                                 linger_ms=20, acks="all")
        sent = [(r, producer.send(topic, value=r.value, key=r.key, headers=r.headers, partition=r.partition,
                                  timestamp_ms=r.timestamp)) for r in records]
        producer.flush(30)
        for r, future in sent:
            lines.same(future.get(30).partition, r.partition, "partition of the acknowledgement")
        producer.close()


def dump(boot, topics):
    consumer = KafkaConsumer(bootstrap_servers=boot, enable_auto_commit=False, auto_offset_reset="none",
                             group_id=None)
    parts = [TopicPartition(t, p) for t in topics for p in sorted(consumer.partitions_for_topic(t))]
    consumer.assign(parts)
    ends = consumer.end_offsets(parts)
    starts = consumer.beginning_offsets(parts)
    for part in parts:
        consumer.seek(part, starts[part])
    deadline = time.monotonic() + PATIENCE_S
    while any(consumer.position(p) < ends[p] for p in parts):
        assert time.monotonic() < deadline, "reading stands still before the end offsets"
        for batch in consumer.poll(timeout_ms=500, max_records=5000).values():
            for r in batch:
                lines.write(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, r.headers)
    consumer.close()


def await_value(read, want, what):
    for _ in range(100):
        got = read()
        if got == want:
            return
        time.sleep(0.05)
    lines.same(got, want, what)


def admin(boot, prefix):
    topic = f"{prefix}-topic"
    client = KafkaAdminClient(bootstrap_servers=boot)
    client.create_topics([NewTopic(topic, 2, 1)])
    await_value(lambda: topic in client.list_topics(), True, "listed topics")
    described = client.describe_topics([topic])
    lines.same(len(described[0]["partitions"]), 2, "partitions")
    lines.same(len(client.describe_cluster()["brokers"]), 1, "nodes")
    consumer = KafkaConsumer(bootstrap_servers=boot)
    part = TopicPartition(topic, 0)
    lines.same(consumer.offsets_for_times({part: 1_700_000_000_000}), {part: None}, "offset by time in an empty log")
    consumer.close()
    client.delete_topics([topic])
    await_value(lambda: topic in client.list_topics(), False, "listed topics after the deletion")
    client.close()


class Listener(ConsumerRebalanceListener):
    def __init__(self):
        self.owned = lines.Owned()

    def on_partitions_assigned(self, assigned):
        self.owned.change([p.partition for p in assigned])

    def on_partitions_revoked(self, revoked):
        self.owned.change(less=[p.partition for p in revoked])


def group(boot, topic, name):
    consumer = KafkaConsumer(bootstrap_servers=boot, group_id=name, enable_auto_commit=False,
                             auto_offset_reset="earliest", session_timeout_ms=6000, heartbeat_interval_ms=300)
    # A call that comes while its loop is about to sleep is lost to kafka-python 3.0.12: nothing is sent for minutes.
    time.sleep(0.3)
    consumer.subscribe([topic], listener=Listener())
    time.sleep(0.3)
    stop = lines.stop_asked()
    while not stop.is_set():
        records = [r for batch in consumer.poll(timeout_ms=100).values() for r in batch]
        for r in records:
            lines.say_read(r.partition, r.offset)
        try:
            if records:
                consumer.commit()
        except KafkaError as e:  # the group has moved on
            print("commit:", e, file=sys.stderr)
    consumer.close()


if __name__ == "__main__":
    lines.main(produce, dump, admin, group)
