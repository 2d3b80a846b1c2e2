"""A producer that is faster than the consumer: the log is the buffer between them.

First a slow consumer, and the lag grows; then help comes, and it shrinks again. The producer does not notice
either: its rate and its acknowledgements are the same throughout. At last a producer that looks at the lag and waits
when it is too far ahead (back pressure), for those who want to bound what lies between.
"""

import statistics
import threading
import time

import common
from common import check, say

RATE = 1_000  # records a second that are produced
SLOW = 300  # and that a slow consumer takes
FAST = 3_000  # and a fast one
SLOW_S, FAST_S = 5, 7
PARTITIONS = 4
LAG_MAX = 500  # with back pressure


class Worker(threading.Thread):
    """A member of the group that takes so many records a second, and commits what it has taken."""

    def __init__(self, boot, group, topic, rate, seen):
        super().__init__(daemon=True)
        self.client = common.consumer(boot, group)
        self.client.subscribe([topic])
        self.rate, self.seen = rate, seen
        self.done = threading.Event()
        self.start()

    def run(self):
        while not self.done.is_set():
            messages = [m for m in self.client.consume(max(1, self.rate // 10), 0.1) if not m.error()]
            for m in messages:
                self.seen.append((m.partition(), m.offset()))
            if messages:
                time.sleep(len(messages) / self.rate)
                self.client.commit(asynchronous=False)
        self.client.close()

    def end(self):
        self.done.set()
        self.join()


class Lag:
    """How far a group is behind, as anybody may ask."""

    def __init__(self, boot, group, topic):
        self.client = common.consumer(boot, group)
        self.parts = common.partitions(self.client, topic)

    def now(self):
        lag = 0
        for part in self.client.committed(self.parts, 10):
            _, end = self.client.get_watermark_offsets(part, 10)
            lag += end - max(part.offset, 0)
        return lag


class Fast(threading.Thread):
    """Produces at a rate; keeps when each record was produced and how long its acknowledgement took."""

    def __init__(self, boot, topic, seconds):
        super().__init__(daemon=True)
        self.client = common.producer(boot)
        self.topic, self.count = topic, int(seconds * RATE)
        self.acks = []
        self.start()

    def run(self):
        begun = time.monotonic()
        for i in range(self.count):
            ahead = begun + i / RATE - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)
            self.send(time.monotonic())
        common.flush(self.client)

    def send(self, now):
        def report(error, _message):
            check(error is None, f"a record: {error}")
            self.acks.append((now, time.monotonic() - now))
        self.client.produce(self.topic, f"{len(self.acks)}", on_delivery=report)
        self.client.poll(0)

    def rate(self, since, until):
        return sum(since <= at < until for at, _ in self.acks) / (until - since)

    def ack_ms(self, since, until):
        return 1000 * statistics.median(took for at, took in self.acks if since <= at < until)


def watch(lag, seconds, each_s=0.5):
    """The lag over some time."""
    seen = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        seen.append(lag.now())
        say(f"  lag {seen[-1]:6} {'#' * (seen[-1] // 100)}")
        time.sleep(each_s)
    return seen


def overtaken(boot):
    topic = common.topic(boot, "firehose", PARTITIONS)
    group, seen = f"{topic}-workers", []
    lag = Lag(boot, group, topic)
    workers = [Worker(boot, group, topic, SLOW, seen)]
    fast = Fast(boot, topic, SLOW_S + FAST_S)
    begun = time.monotonic()
    say(f"{RATE} records a second come, a consumer takes {SLOW}")
    slow_lag = watch(lag, SLOW_S)
    say(f"it is mended and takes {FAST}, and another helps")
    helped = time.monotonic()
    workers[0].rate = FAST
    workers.append(Worker(boot, group, topic, FAST, seen))
    fast_lag = watch(lag, FAST_S)
    fast.join()
    ended = begun + SLOW_S + FAST_S
    deadline = time.monotonic() + common.PATIENCE_S
    while lag.now() > 0:
        check(time.monotonic() < deadline, "the lag does not go")
        time.sleep(0.2)
    for worker in workers:
        worker.end()
    check_lag(slow_lag, fast_lag)
    check(len(fast.acks) == fast.count, "each record is acknowledged once")
    check(len(set(seen)) == fast.count, "each record is taken")
    for name, since, until in [("behind", begun, helped), ("helped", helped, ended)]:
        say(f"  {name}: {fast.rate(since, until):.0f} produced a second, "
            f"acknowledged in {fast.ack_ms(since, until):.1f} ms")
        check(abs(fast.rate(since, until) / RATE - 1) < 0.1, f"the producer's rate is flat: {name}")


def check_lag(slow, fast):
    check(slow[-1] > SLOW_S * (RATE - SLOW) / 2, f"the lag grows: {slow}")
    halves = slow[len(slow) // 2], slow[-1]
    check(halves[0] < halves[1], f"the lag grows on: {slow}")
    check(min(fast) < max(slow) / 4, f"the lag shrinks while as much comes: {fast}")


def back_pressure(boot):
    """A producer that asks for the lag now and then, and waits while it is too much."""
    topic = common.topic(boot, "pressed", PARTITIONS)
    group, seen = f"{topic}-workers", []
    lag, largest, waited = Lag(boot, group, topic), 0, 0
    worker, producer = None, common.producer(boot)
    count, step = 4_000, LAG_MAX // 5
    for i in range(count):
        producer.produce(topic, f"{i}", on_delivery=common.failed("a record"))
        if i % step == step - 1:
            common.flush(producer)
            behind = lag.now()
            while behind > LAG_MAX - step:
                waited += 1
                # Nobody takes anything before the producer had to wait for the first time.
                worker = worker or Worker(boot, group, topic, FAST, seen)
                time.sleep(0.02)
                behind = lag.now()
            largest = max(largest, lag.now() + step)
    common.flush(producer)
    check(waited > 0, "the producer is slowed down")
    deadline = time.monotonic() + common.PATIENCE_S
    while lag.now() > 0:
        check(time.monotonic() < deadline, "the lag does not go")
        time.sleep(0.1)
    worker.end()
    check(len(set(seen)) == count, "each record is taken")
    check(largest <= LAG_MAX, f"the lag is bounded: {largest}")
    say(f"with back pressure: {count} records as fast as they are taken, at most {largest} behind")


def main():
    boot = common.bootstrap()
    overtaken(boot)
    back_pressure(boot)
    say("ok: the lag grew and shrank, and the producer did not notice")


if __name__ == "__main__":
    main()
