"""Writes the flights with librdkafka: keyed by tail number, lz4, idempotent, murmur2.

Usage: produce.py BOOTSTRAP TOPIC CSV PARTITIONS. The topic is created. Standard output says `acked N` from
time to time; then, for every record in the order of the file, `seq<TAB>partition<TAB>offset<TAB>key<TAB>sha256`.
A flight whose tail number is not known (NA) gets a null key, and so a partition of the client's choice.
"""

import hashlib
import sys

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

TAIL_NUMBER = "tailnum"


def main():
    boot, topic, path, partitions = sys.argv[1:]
    admin = AdminClient({"bootstrap.servers": boot})
    admin.create_topics([NewTopic(topic, int(partitions))])[topic].result(30)
    producer = Producer({
        "bootstrap.servers": boot,
        "enable.idempotence": True,
        "compression.codec": "lz4",
        "partitioner": "murmur2_random",  # Java's own choice; null keys go anywhere
        "linger.ms": 5,
        "batch.num.messages": 500,  # many batches are in flight at any moment
        "queue.buffering.max.messages": 20000,
        "message.timeout.ms": 120000,
        "reconnect.backoff.max.ms": 500,
        "log_level": 0,
    })
    acked, failed = {}, []

    def delivered(seq):
        def on_delivery(error, message):
            if error:
                failed.append((seq, str(error)))
            elif acked.setdefault(seq, (message.partition(), message.offset())) != (
                    message.partition(), message.offset()):
                failed.append((seq, "acknowledged at two places"))
            if len(acked) % 5000 == 0:
                print("acked", len(acked), flush=True)
        return on_delivery

    with open(path, encoding="utf-8") as file:
        lines = [line.rstrip("\n") for line in file]
    column = lines[0].split(",").index(TAIL_NUMBER)
    flights = lines[1:]

    def key_of(line):
        tail = line.split(",")[column].strip('"')
        return None if tail in ("", "NA") else tail.encode()

    for seq, line in enumerate(flights):
        while True:
            try:
                producer.produce(topic, line.encode(), key_of(line), headers=[("seq", str(seq).encode())],
                                 on_delivery=delivered(seq))
                break
            except BufferError:
                producer.poll(0.1)
        if seq % 1000 == 0:
            producer.poll(0)
    left = producer.flush(150)
    if left or failed or len(acked) != len(flights):
        sys.exit(f"{left} records are left, {len(acked)} acknowledged of {len(flights)}, failed: {failed[:5]}")
    for seq, line in enumerate(flights):
        key = key_of(line)
        partition, offset = acked[seq]
        print(seq, partition, offset, "~" if key is None else key.hex(),
              hashlib.sha256(line.encode()).hexdigest(), sep="\t")


if __name__ == "__main__":
    main()
