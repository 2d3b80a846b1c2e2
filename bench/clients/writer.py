"""Writes to all partitions of a topic with librdkafka: writer.py BOOTSTRAP TOPIC PARTITIONS MS.

Told `write` it writes a record each MS milliseconds until it is told `rest`. Told `mark N P P ...` it sends a record to each of
these partitions at once, and says `back N` when each has acknowledged a record that was sent after that. A record
that is given up is said as `failed WHY`. At the end of the input it says `left N`: what was not acknowledged."""
import sys
import threading
import time

from confluent_kafka import Producer

boot, topic, partitions, pause = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]) / 1000
lock = threading.Lock()
waiting, mark_at, mark = set(), 0.0, ""
writing, ended = threading.Event(), threading.Event()


def acknowledged(sent, partition):
    def told(error, _message):
        if error:
            print("failed", error, flush=True)
            return
        with lock:
            if sent < mark_at or partition not in waiting:
                return
            waiting.discard(partition)
            if not waiting:
                print("back", mark, flush=True)
    return told


def send(partition):
    producer.produce(topic, b"%f" % time.time(), partition=partition,
                     on_delivery=acknowledged(time.monotonic(), partition))


def hear():
    global mark_at, mark
    for line in sys.stdin:
        word, *rest = line.split()
        if word == "write":
            writing.set()
        elif word == "rest":
            writing.clear()
        elif word == "mark":
            marked = [int(partition) for partition in rest[1:]]
            with lock:
                mark_at, mark = time.monotonic(), rest[0]
                waiting.clear()
                waiting.update(marked)
            for partition in marked:
                send(partition)
    ended.set()


producer = Producer({"bootstrap.servers": boot, "acks": "all", "log_level": 2})
threading.Thread(target=hear, daemon=True).start()
print("writes", flush=True)
number = 0
while not ended.is_set():
    if writing.is_set():
        send(number % partitions)
        number += 1
    # Acknowledgements end a poll: what is left of the pause is waited for in further ones.
    until = time.monotonic() + pause
    while (left := until - time.monotonic()) > 0:
        producer.poll(left)
print("left", producer.flush(60), flush=True)
