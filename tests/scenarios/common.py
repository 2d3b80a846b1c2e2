"""What the scenarios share: topics, clients with the settings that matter, and checks.

A scenario is run as `python NAME.py BOOTSTRAP`, against streamd or any other broker of Kafka's protocol. It says
what it does, ends with `ok` or with an error, and leaves its topics behind for a look. A line that begins with
`now:` marks a moment at which the broker may as well be killed: the tests do that.
"""

import sys
import time

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

PATIENCE_S = 90
CLIENT = {
    "reconnect.backoff.max.ms": 500,
    # With "rebootstrap" librdkafka 2.16 forgets the only broker while it is away, and a transaction that was about to
    # commit offsets waits for the forgotten one without end.
    "metadata.recovery.strategy": "none",
    "log_level": 0,
}
RUN = format(int(time.time()), "x")


def say(text):
    print(text, flush=True)


def check(right, what):
    if not right:
        sys.exit(f"wrong: {what}")


def bootstrap():
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} BOOTSTRAP (such as 127.0.0.1:9092)")
    return sys.argv[1]


def topic(boot, stem, partitions, **config):
    """A new topic, under a name that no other run has."""
    name = f"{stem}-{RUN}"
    admin = AdminClient({"bootstrap.servers": boot})
    config = {key.replace("_", "."): value for key, value in config.items()}
    admin.create_topics([NewTopic(name, partitions, config=config)])[name].result(30)
    return name


def producer(boot, **more):
    """Acknowledged by all replicas, idempotent: each record once, in order, whatever is retried."""
    return Producer({
        "bootstrap.servers": boot,
        "enable.idempotence": True,
        "partitioner": "murmur2_random",  # as Java has it: clients of all languages agree on a key's partition
        "linger.ms": 5,
        "message.timeout.ms": PATIENCE_S * 1000,
    } | CLIENT | {key.replace("_", "."): value for key, value in more.items()})


def transactional(boot, name):
    """Writes and commits offsets, all or nothing. Whoever takes the same name later fences this one off."""
    return producer(boot, transactional_id=name, transaction_timeout_ms=10_000, message_timeout_ms=10_000)


def consumer(boot, group, **more):
    """Commits what its user says is done, nothing by itself."""
    return Consumer({
        "bootstrap.servers": boot,
        "group.id": group,
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        "session.timeout.ms": 6000,
        "heartbeat.interval.ms": 1000,
    } | CLIENT | {key.replace("_", "."): value for key, value in more.items()})


def flush(p):
    check(p.flush(PATIENCE_S) == 0, "records could not be delivered")


def failed(on_what):
    """A delivery report that ends the program when a record is given up."""
    def report(error, _message):
        check(error is None, f"{on_what}: {error}")
    return report


def partitions(client, name):
    return [TopicPartition(name, p) for p in client.list_topics(name, 30).topics[name].partitions]


class View:
    """All that is committed in a topic, read on as it comes; no group needs to be asked."""

    def __init__(self, boot, name):
        self.client = consumer(boot, "unused")
        parts = partitions(self.client, name)
        for part in parts:
            part.offset = 0
        self.client.assign(parts)
        self.messages = []

    def read(self, wait_s=0.2):
        """What has come since."""
        new = [m for m in self.client.consume(10_000, wait_s) if not m.error()]
        self.messages += new
        return new

    def until(self, count, what):
        """Reads until there are as many, and a moment more, for there should not be any more."""
        deadline = time.monotonic() + PATIENCE_S
        while len(self.messages) < count:
            check(time.monotonic() < deadline, f"{len(self.messages)} {what} of {count}")
            self.read()
        self.read(0.5)
        check(len(self.messages) == count, f"{len(self.messages)} {what}, {count} expected")
        return self.messages

    def close(self):
        self.client.close()


def exactly_once(boot, name, group, source, step, stop):
    """Reads, lets `step(producer, messages)` write, and commits both as one, until `stop()`.

    Whatever goes wrong (a broker that is gone, a rebalance, a fence), the transaction is void: another begins where
    the group has committed. That is why nothing here is repaired: everything is made anew.
    """
    while not stop():
        c, p = consumer(boot, group), transactional(boot, name)
        try:
            p.init_transactions(30)
            c.subscribe([source])
            while not stop():
                messages = [m for m in c.consume(500, 0.2) if not m.error()]
                if not messages:
                    continue
                p.begin_transaction()
                step(p, messages)
                p.send_offsets_to_transaction(c.position(c.assignment()), c.consumer_group_metadata(), 30)
                p.commit_transaction(30)
        except KafkaException as error:
            say(f"  {name} begins again: {error.args[0].name()}")
            try:
                p.abort_transaction(5)
            except KafkaException:
                pass  # fenced, or not reached: its successor's init_transactions aborts it
            time.sleep(0.2)
        finally:
            c.close()
