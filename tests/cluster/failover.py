"""Writes to all partitions of a topic without a pause, for failover.rs: told `mark P P ...` it says
when a record that was sent after that was acknowledged by each of these partitions."""
import sys
import threading
import time

from confluent_kafka import Producer

boot, topic, partitions = sys.argv[1], sys.argv[2], int(sys.argv[3])
marks, lock = {}, threading.Lock()
mark_at, stopping = 0.0, False


def hear():
    global mark_at, stopping
    for line in sys.stdin:
        words = line.split()
        with lock:
            mark_at = time.monotonic()
            marks.clear()
            marks.update((int(p), None) for p in words[1:])
    stopping = True


def acknowledged(sent, partition):
    def told(error, _message):
        if error:
            print("failed", error, flush=True)
            return
        with lock:
            if sent < mark_at or marks.get(partition, 0) is not None:
                return
            marks[partition] = time.monotonic() - mark_at
            if all(took is not None for took in marks.values()):
                print("back", round(max(marks.values()) * 1000), flush=True)
    return told


producer = Producer({"bootstrap.servers": boot, "acks": "all", "enable.idempotence": True, "linger.ms": 1,
                     "message.timeout.ms": 60_000, "log_level": 2})
threading.Thread(target=hear, daemon=True).start()
print("writes", flush=True)
number = 0
while not stopping:
    partition = number % partitions
    producer.produce(topic, b"%d" % number, partition=partition,
                     on_delivery=acknowledged(time.monotonic(), partition))
    number += 1
    producer.poll(0.002)
print("left", producer.flush(60), flush=True)
