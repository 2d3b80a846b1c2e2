"""A durable queue of jobs, some of which fail at first, and one always: the poison job.

Workers, which are members of a group, share the queue. A job that fails goes to a retry topic with the number of
the attempt, the cause, and when to try again; others look after that one, and the queue does not wait for it. After
the last attempt the job goes to a topic of dead letters, with everything that a person wants to know. Each step is a
transaction with the offset of the job: no job is lost or recorded as done twice, whoever dies meanwhile (what a job
does outside may still be begun again after a death: jobs should bear that).
"""

import json
import multiprocessing
import time

import common
from common import check, say

JOBS = 2_000
PARTITIONS = 6
ATTEMPTS = 3
DELAY_S = 0.3
POISON = 777


class Topics:
    """Where a job may be."""

    def __init__(self, boot):
        self.queue = common.topic(boot, "jobs", PARTITIONS)
        self.retry = common.topic(boot, "jobs-retry", PARTITIONS)
        self.dead = common.topic(boot, "jobs-dead", 1)
        self.done = common.topic(boot, "jobs-done", PARTITIONS)


def do(job, attempt):
    """The work: every tenth job succeeds at its last attempt only, and one never."""
    if job == POISON:
        raise ValueError(f"job {job} cannot be done")
    if job % 10 == 3 and attempt < ATTEMPTS:
        raise TimeoutError("somebody else was not there")


def headers_of(message):
    return {name: value.decode() for name, value in message.headers() or []}


def work(boot, number, topics, source):
    """A worker, in a process of its own; those that look after the retry topic wait until a job is due."""
    def step(producer, messages):
        for m in messages:
            headers = headers_of(m)
            time.sleep(max(0.0, float(headers.get("not-before", 0)) - time.time()))
            attempt = int(headers.get("attempt", 0)) + 1
            try:
                do(json.loads(m.value())["job"], attempt)
                producer.produce(topics.done, m.value(), m.key(), headers={"attempt": str(attempt)})
            except Exception as error:  # whatever a job does, its worker lives on
                fail(producer, m, attempt, error)
        time.sleep(0.05)

    def fail(producer, m, attempt, error):
        headers = {
            "attempt": str(attempt),
            "cause": f"{type(error).__name__}: {error}",
            "first-seen": headers_of(m).get("first-seen", f"{m.topic()} {m.partition()} {m.offset()}"),
            "not-before": str(time.time() + DELAY_S * attempt),
        }
        target = topics.retry if attempt < ATTEMPTS else topics.dead
        producer.produce(target, m.value(), m.key(), headers=headers)

    common.exactly_once(boot, f"{source}-{number}", f"{source}-workers", source, step, lambda: False)


def enqueue(boot, topics, worker):
    """Jobs come, while a worker dies."""
    producer = common.producer(boot)
    for job in range(JOBS):
        producer.produce(topics.queue, json.dumps({"job": job}), f"customer-{job % 97}",
                         on_delivery=common.failed("a job"))
        producer.poll(0)
        if job == JOBS // 3:
            say("a third of the jobs have come; a worker dies")
            worker.kill()
        if job == JOBS // 2:
            say("now: half of the jobs have come")
        time.sleep(0.001)
    common.flush(producer)


def main():
    boot = common.bootstrap()
    topics = Topics(boot)
    spawn = multiprocessing.get_context("spawn")
    sources = [topics.queue, topics.queue, topics.queue, topics.retry]
    workers = [spawn.Process(target=work, args=(boot, n, topics, source), daemon=True)
               for n, source in enumerate(sources)]
    for worker in workers:
        worker.start()
    try:
        enqueue(boot, topics, workers[0])
        done = common.View(boot, topics.done).until(JOBS - 1, "jobs are done")
        letters = common.View(boot, topics.dead).until(1, "dead letters")
    finally:
        for worker in workers:
            worker.kill()
    attempts = {json.loads(m.value())["job"]: int(headers_of(m)["attempt"]) for m in done}
    check(set(attempts) == set(range(JOBS)) - {POISON}, "the jobs that are done")
    late = {job for job, attempt in attempts.items() if attempt == ATTEMPTS}
    check(late == {job for job in attempts if job % 10 == 3}, "the jobs that were tried again")
    check(json.loads(letters[0].value())["job"] == POISON, "the dead letter")
    letter = headers_of(letters[0])
    check(letter["attempt"] == str(ATTEMPTS) and "cannot be done" in letter["cause"], f"its headers: {letter}")
    check(letter["first-seen"].startswith(topics.queue), f"where it came from: {letter}")
    say(f"the dead letter: {letter}")
    say(f"ok: {len(attempts)} jobs are done, {len(late)} of them at the last attempt, the poison job is put aside")


if __name__ == "__main__":
    main()
