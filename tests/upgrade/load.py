"""Writes and reads a topic without a pause, for upgrade.rs: BOOTSTRAP TOPIC PARTITIONS. Each partition gets
the numbers from 0 on. When its input ends, it stops writing and looks at everything: acknowledged records
are where they were said to be, each number is there once and in order, and the group has read them all."""
import sys
import threading
import time

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

PATIENCE_S = 60
boot, topic, partitions = sys.argv[1], sys.argv[2], int(sys.argv[3])
stopping = threading.Event()
faults = []


def hear():
    for _line in sys.stdin:
        print("written", sum(len(a) for a in acked), flush=True)
    stopping.set()


def fault(*words):
    faults.append(" ".join(map(str, words)))


# Of each partition: number to offset.
acked = [{} for _ in range(partitions)]


def write():
    producer = Producer({"bootstrap.servers": boot, "acks": "all", "enable.idempotence": True, "linger.ms": 2,
                         "message.timeout.ms": PATIENCE_S * 1000, "log_level": 2})

    def told(error, message):
        if error:
            fault("not acknowledged:", error)
        else:
            acked[message.partition()][int(message.value())] = message.offset()

    number = 0
    while not stopping.is_set():
        for partition in range(partitions):
            producer.produce(topic, b"%d" % number, partition=partition, on_delivery=told)
        number += 1
        producer.poll(0.005)
        if number == 100:
            print("writes", flush=True)
    left = producer.flush(PATIENCE_S)
    if left:
        fault(left, "records were not answered")
    return number


def consumer(group, more):
    return Consumer({"bootstrap.servers": boot, "group.id": group, "enable.auto.commit": False,
                     "auto.offset.reset": "earliest", "log_level": 2} | more)


class Reader(threading.Thread):
    """A member of a group, which commits. Who reads on after a rebalance may see records again."""

    def __init__(self):
        super().__init__(daemon=True)
        self.next = [0] * partitions
        self.ends = None
        self.consumer = consumer("readers", {"session.timeout.ms": 6000})

    def run(self):
        self.consumer.subscribe([topic])
        since = time.monotonic()
        while self.ends is None or any(n < e for n, e in zip(self.next, self.ends)):
            message = self.consumer.poll(0.1)
            if message and not message.error():
                self.take(message.partition(), int(message.value()), message)
            if message and not message.error() and message.offset() % 500 == 499:
                self.consumer.commit(message, asynchronous=True)
            if self.ends is None:
                since = time.monotonic()
            elif time.monotonic() - since > PATIENCE_S:
                return fault("the group has read", self.next, "of", self.ends)
        self.consumer.close()

    def take(self, partition, number, message):
        if number > self.next[partition]:
            fault("the group reads", number, "after", self.next[partition] - 1, "at", message.offset())
        self.next[partition] = max(self.next[partition], number + 1)


def look(count):
    """Reads all from the beginning."""
    found = [[] for _ in range(partitions)]
    reader = consumer("none", {"enable.partition.eof": True})
    reader.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in range(partitions)])
    open_ones, deadline = set(range(partitions)), time.monotonic() + PATIENCE_S
    while open_ones and time.monotonic() < deadline:
        message = reader.poll(1.0)
        if message and message.error():
            open_ones.discard(message.partition())
        elif message:
            found[message.partition()].append((int(message.value()), message.offset()))
    reader.close()
    for partition, have in enumerate(found):
        if [number for number, _ in have] != list(range(count)):
            odd = next((i for i, (n, _) in enumerate(have) if n != i), len(have))
            fault("partition", partition, "has", len(have), "of", count, "records; see", odd, have[odd:odd + 3])
        at = dict(have)
        for number, offset in acked[partition].items():
            if at.get(number) != offset:
                fault("partition", partition, "has", number, "at", at.get(number), "not", offset)
                break


threading.Thread(target=hear, daemon=True).start()
members = Reader()
members.start()
total = write()
members.ends = [total] * partitions
members.join()
look(total)
for line in faults[:20]:
    print("fault:", line, flush=True)
print("broken" if faults else "whole", total * partitions, "records", flush=True)
