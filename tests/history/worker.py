"""librdkafka's part of a history: BOOTSTRAP PREFIX NAME PROTOCOL, or `final` for the last; the lines are those of record.rs.

Threads send, poll by assignment, poll as members of a group, write transactions, and move records in
transactions. `drain` on standard input ends the writers, which is said with `# quiet`; the end of the
input ends the others once they have read everything. Whoever was told `last` before waits until its members
own everything.
"""

import itertools
import os
import random
import sys
import threading
import time

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition

PARTITIONS = range(3)
PATIENCE_S = 45
SLOW = 0.005
LINE = threading.Lock()
HUNG = []  # a producer is not given up while a thread of its hangs


def now():
    return time.monotonic_ns() // 1000


def say(*words):
    line = " ".join(map(str, words)) + "\n"
    with LINE:
        sys.stdout.write(line)
        sys.stdout.flush()


class Run:
    def __init__(self, boot, prefix, name, protocol):
        self.boot, self.prefix, self.name, self.protocol = boot, prefix, name, protocol
        self.draining, self.stopping = threading.Event(), threading.Event()
        self.last = False

    def topic(self, name):
        return self.prefix + name

    def producer(self, more):
        # Longer than any outage: for messages that time out a producer takes another epoch, and then
        # writes again what it sent in the one before.
        return Producer({"bootstrap.servers": self.boot, "linger.ms": 2, "reconnect.backoff.max.ms": 500,
                         "socket.timeout.ms": 5000, "message.timeout.ms": 60_000, "acks": "all",
                         "enable.idempotence": True, "log_level": 2} | more)

    def group(self, name):
        config = {"group.id": name, "group.protocol": self.protocol}
        if self.protocol == "classic":
            config |= {"partition.assignment.strategy": "cooperative-sticky", "session.timeout.ms": 6000,
                       "heartbeat.interval.ms": 300}
        return config

    def consumer(self, more):
        return Consumer({"bootstrap.servers": self.boot, "group.id": "none", "enable.auto.commit": False,
                         "auto.offset.reset": "earliest", "isolation.level": "read_committed",
                         "enable.partition.eof": True, "fetch.wait.max.ms": 100, "fetch.error.backoff.ms": 50,
                         "reconnect.backoff.max.ms": 500, "socket.timeout.ms": 5000, "log_level": 2} | more)


class Reader:
    """A consumer that notes its positions, and knows when it has read all."""

    def __init__(self, run, process, more=None):
        self.run, self.process, self.number = run, process, 0
        self.consumer = run.consumer(more or {})
        self.ends = {}
        self.owned = set()
        self.told = time.monotonic()

    def assign(self, *topics):
        parts = [TopicPartition(t, p, OFFSET_BEGINNING) for t in topics for p in PARTITIONS]
        self.consumer.assign(parts)
        self.owned = {(p.topic, p.partition) for p in parts}
        self.say_owned()
        return self

    def subscribe(self, topic, group):
        say(now(), self.process, 0, "ok", "group", group, topic)
        self.consumer.subscribe([topic], on_assign=self.gain, on_revoke=self.lose, on_lost=self.lose)
        return self

    def gain(self, _, parts):
        self.owned |= {(p.topic, p.partition) for p in parts}
        self.say_owned()

    def lose(self, _, parts):
        for part in parts:
            self.owned.discard((part.topic, part.partition))
            self.ends.pop((part.topic, part.partition), None)
        self.say_owned()

    def say_owned(self):
        say(now(), self.process, 0, "ok", "owns", *sorted(f"{t}/{p}" for t, p in self.owned))

    def poll(self, most=100):
        """The records of a poll, and its line's words."""
        records = []
        for m in self.consumer.consume(most, 0.1):
            place = m.topic(), m.partition()
            if not m.error():
                self.ends.pop(place, None)
                records.append(m)
            elif m.error().code() == KafkaError._PARTITION_EOF:
                self.ends[place] = m.offset()
            elif m.error().fatal():
                raise KafkaException(m.error())
        return records, [f"r:{m.topic()}/{m.partition()}:{m.value().decode()}@{m.offset()}" for m in records]

    def poll_and_say(self):
        began = now()
        records, words = self.poll()
        if records:
            self.number += 1
            say(began, self.process, self.number, "invoke", "poll")
            say(now(), self.process, self.number, "ok", "poll", *words)
        return records

    def is_done(self):
        """Whether it has read all of what it owns."""
        if not self.run.stopping.is_set():
            return False
        if self.run.last and len(self.owned) < len(PARTITIONS):
            return False
        missing = next(self.missing(), None)
        if missing and time.monotonic() > self.told + 5:
            self.told = time.monotonic()
            say("# waits", self.process, *missing)
        return missing is None

    def missing(self):
        for place in self.owned:
            end = self.ends.get(place)
            try:
                if end is None or end < (high := self.consumer.get_watermark_offsets(TopicPartition(*place), 10)[1]):
                    yield place, end, end and high
            except KafkaException as e:
                yield place, e


def send(run):
    topic = run.topic("plain")
    for life in itertools.count():
        process = f"{run.name}-s{life}"
        producer = run.producer({})
        number, dead = 0, []

        def done(error, message, number, place, value):
            if error is None:
                say(now(), process, number, "ok", "send", f"s:{place}:{value}@{message.offset()}")
                return
            say(now(), process, number, "info", "send", f"s:{place}:{value}")
            if error.fatal() or error.code() == KafkaError._FATAL:
                dead.append(error)
        while not run.draining.is_set() and not dead:
            for _ in range(random.randint(1, 8)):
                number += 1
                part, value = random.choice(PARTITIONS), f"{process}.{number}"
                place = f"{topic}/{part}"
                say(now(), process, number, "invoke", "send", f"s:{place}:{value}")
                try:
                    producer.produce(topic, value, partition=part, on_delivery=lambda e, m, a=(number, place, value):
                                     done(e, m, *a))
                except KafkaException as e:  # an idempotent producer that has come to its end
                    done(e.args[0], None, number, place, value)
                    dead.append(e)
                    break
            producer.poll(0.03)
            while len(producer) > 200:
                producer.poll(0.1)
        producer.flush(30)
        if not dead:
            return
        say("# fatal", process, dead[0])


def watch(run, topic):
    reader = Reader(run, f"{run.name}-a-{topic}").assign(run.topic(topic))
    while not reader.is_done():
        reader.poll_and_say()
    reader.consumer.close()


def member(run):
    group = run.topic("readers")
    reader = Reader(run, f"{run.name}-g", run.group(group)).subscribe(run.topic("plain"), group)
    while not reader.is_done():
        if reader.poll_and_say():
            try:
                reader.consumer.commit(asynchronous=False)
            except KafkaException as e:  # whoever owns it next reads it again
                say("# commit", reader.process, e)
    reader.consumer.close()


class Hung(Exception):
    """librdkafka does not come back."""


def offsets_sent(producer, parts, metadata):
    """send_offsets_to_transaction may wait forever when its coordinator goes (librdkafka's issue 5456)."""
    failures = []

    def work():
        try:
            producer.send_offsets_to_transaction(parts, metadata, 10)
        except KafkaException as e:
            failures.append(e)
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20)
    if thread.is_alive():
        raise Hung
    for failure in failures:
        raise failure


class Writer:
    """A transactional producer that is made anew when it is of no more use."""

    def __init__(self, run, process, transactional_id):
        self.run, self.process, self.number = run, process, 0
        self.config = {"transactional.id": transactional_id, "transaction.timeout.ms": 10_000,
                       "message.timeout.ms": 10_000}
        self.producer = None

    def ready(self):
        while self.producer is None:
            try:
                producer = self.run.producer(self.config)
                producer.init_transactions(20)
                self.producer = producer
            except KafkaException as e:
                say("# init", self.process, e)
                time.sleep(0.1)

    def run_op(self, sends, words, extra=None, abort=False):
        """Sends (topic, partition, value) in a transaction; whether it was ok, fail or info."""
        self.ready()
        self.number += 1
        plain = [f"s:{t}/{p}:{v}" for t, p, v in sends]
        say(now(), self.process, self.number, "invoke", "txn", *plain, *words)
        state = {"sends": dict(zip(sends, plain)), "commit": []}
        try:
            fate = self.attempt(sends, words, extra, abort, state)
        except Hung:
            say("# hung", self.process, self.number)
            HUNG.append(self.producer)
            self.producer = None
            fate = "info"
        except KafkaException as e:
            fate = self.give_up(e)
        say(now(), self.process, self.number, fate, "txn", *state["sends"].values(), *words, *state["commit"])
        return fate

    def attempt(self, sends, words, extra, abort, state):
        def done(error, message, key):
            if error is None:
                state["sends"][key] += f"@{message.offset()}"
        self.producer.begin_transaction()
        for key in sends:
            topic, part, value = key
            self.producer.produce(topic, value, partition=part, on_delivery=lambda e, m, k=key: done(e, m, k))
        if extra:
            extra(self.producer, words)
        if abort:
            self.producer.flush(random.choice([0, 20]))
            self.again(self.producer.abort_transaction)
            return "fail"
        self.producer.flush(30)
        state["commit"].append(f"c:{now()}")
        self.again(self.producer.commit_transaction)
        return "ok"

    @staticmethod
    def again(end):
        deadline = time.monotonic() + 30
        while True:
            try:
                return end(10)
            except KafkaException as e:
                if not e.args[0].retriable() or time.monotonic() > deadline:
                    raise

    def give_up(self, error):
        error = error.args[0]
        say("# txn", self.process, self.number, error.name(), error.str())
        if error.txn_requires_abort():
            try:
                self.again(self.producer.abort_transaction)
                return "fail"
            except KafkaException as e:
                say("# abort", self.process, self.number, e)
        self.producer = None
        return "info"


def transact(run):
    """Writes to some places at once, and reads meanwhile."""
    topic = run.topic("txns")
    process = f"{run.name}-t"
    writer = Writer(run, process, run.topic(process))
    reader = Reader(run, process).assign(topic)

    def read(_, words):
        words += reader.poll()[1]
    for number in itertools.count():
        if run.draining.is_set():
            break
        parts = [random.choice(PARTITIONS) for _ in range(random.randint(1, 4))]
        sends = [(topic, part, f"{process}.{number}.{i}") for i, part in enumerate(parts)]
        extra = read if random.random() < 0.5 else None
        writer.run_op(sends, [], extra, abort=random.random() < 0.2)
    reader.consumer.close()


def move(run):
    """Moves each record once, with the group's offsets in the transaction."""
    source, target, group = run.topic("txns"), run.topic("moved"), run.topic("movers")
    process = f"{run.name}-m"
    say(now(), process, 0, "ok", "moves", source, target)
    reader = Reader(run, process, run.group(group) | {"max.poll.interval.ms": 6000}).subscribe(source, group)
    writer = Writer(run, process, run.topic(process))
    attempts = itertools.count()
    while not reader.is_done():
        records, words = reader.poll(20)
        if not records:
            continue
        sends = [(target, m.partition(), f"{m.value().decode()}~{process}.{next(attempts)}") for m in records]
        ends = {(m.topic(), m.partition()): m.offset() + 1 for m in records}

        def offsets(producer, _):
            parts = [TopicPartition(*place, end) for place, end in ends.items()]
            metadata = reader.consumer.consumer_group_metadata()
            if random.random() < SLOW and not run.stopping.is_set():
                time.sleep(7.5)  # it has left the group by then, and others have moved these
            offsets_sent(producer, parts, metadata)
        if writer.run_op(sends, words, offsets, abort=random.random() < 0.1) != "ok":
            rewind(reader)
        elif random.random() < 0.3:
            say_committed(reader, ends)
    reader.consumer.close()


def say_committed(reader, places):
    """Says what the group has committed."""
    began = now()
    try:
        parts = reader.consumer.committed([TopicPartition(*place) for place in places], 10)
    except KafkaException as e:
        return say("# committed", reader.process, e)
    if not any(part.error for part in parts):
        ends = (f"{part.topic}/{part.partition}@{max(part.offset, 0)}" for part in parts)
        say(now(), reader.process, 0, "ok", "committed", f"c:{began}", *ends)


def rewind(reader):
    """Back to what is committed, as its positions are ahead of that."""
    say(now(), reader.process, 0, "ok", "rewind")
    reader.ends.clear()
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        owned = [TopicPartition(*place) for place in reader.owned]
        if not owned:
            return
        try:
            for part in reader.consumer.committed(owned, 10):
                if part.error:
                    raise KafkaException(part.error)
                if part.offset < 0:
                    part.offset = OFFSET_BEGINNING
                reader.consumer.seek(part)
            return
        except KafkaException as e:
            say("# rewind", reader.process, e)
            # Rebalances are served by polls; what comes in is read again.
            reader.poll(1)
            say(now(), reader.process, 0, "ok", "rewind")
    raise TimeoutError("a mover cannot go back")


def final(run):
    """Reads all topics to their ends."""
    topics = [run.topic(name) for name in ("plain", "txns", "moved")]
    reader = Reader(run, "final").assign(*topics)
    run.stopping.set()
    deadline = time.monotonic() + PATIENCE_S
    while not reader.is_done():
        reader.poll_and_say()
        if time.monotonic() > deadline:
            sys.exit(f"the final reading stands still at {reader.ends}")
    say(now(), "final", 0, "ok", "final", *(f"{t}/{p}@{end}" for (t, p), end in reader.ends.items()))
    reader.consumer.close()


def main():
    run = Run(*sys.argv[1:])
    if run.protocol == "final":
        return final(run)

    def start(work, *args):
        def guarded():
            try:
                work(run, *args)
            except BaseException as e:
                say("# died", work.__name__, repr(e))
                raise
        thread = threading.Thread(target=guarded)
        thread.start()
        return thread
    writers = [start(send), start(transact)]
    others = [start(watch, "plain"), start(watch, "moved"), start(member), start(move)]
    for line in sys.stdin:
        if line.strip() == "drain":
            run.draining.set()
            for thread in writers:
                thread.join()
            say("# quiet")
        else:
            run.last = True
    run.draining.set()
    run.stopping.set()
    for thread in others:
        thread.join()
    os._exit(0)  # not waiting for what hangs


if __name__ == "__main__":
    main()
