"""The waiting room of a ticket shop: who comes first is let in first, event by event.

Arrivals are keyed by event, so each event's are in one partition, in their order. Door keepers, which are members of
a group, share the partitions; each lets people in by writing to another topic, in one transaction with the offsets
of those it has dealt with. So a door keeper may die, and the broker may be killed: nobody gets in twice, is
forgotten, or passes another.
"""

import multiprocessing
import random
import time

import common
from common import check, say

EVENTS = 12
PEOPLE = 6_000
PARTITIONS = 6
KEEPERS = 3


def keep_door(boot, number, arrivals, admitted):
    """One door keeper, in a process of its own."""
    def admit(producer, messages):
        for m in messages:
            producer.produce(admitted, m.value(), m.key())
        time.sleep(0.05)  # a look at each ticket

    common.exactly_once(boot, f"{admitted}-keeper-{number}", f"{admitted}-keepers", arrivals, admit, lambda: False)


def arrive(boot, topic, keeper):
    """People come for random events, while a keeper dies; gives who came for which, in their order."""
    dice = random.Random(1)
    producer = common.producer(boot)
    queues = {f"event-{e}": [] for e in range(EVENTS)}
    for person in range(PEOPLE):
        event = f"event-{min(dice.randrange(EVENTS), dice.randrange(EVENTS))}"
        queues[event].append(f"person-{person}")
        producer.produce(topic, f"person-{person}", event, on_delivery=common.failed("an arrival"))
        producer.poll(0)
        if person == PEOPLE // 3:
            say("a third of them have arrived; a door keeper dies")
            keeper.kill()
        if person == PEOPLE // 2:
            say("now: half of them have arrived")
        time.sleep(0.001)
    common.flush(producer)
    return queues


def main():
    boot = common.bootstrap()
    arrivals = common.topic(boot, "arrivals", PARTITIONS)
    admitted = common.topic(boot, "admitted", PARTITIONS)
    spawn = multiprocessing.get_context("spawn")
    keepers = [spawn.Process(target=keep_door, args=(boot, n, arrivals, admitted), daemon=True)
               for n in range(KEEPERS)]
    for keeper in keepers:
        keeper.start()
    try:
        queues = arrive(boot, arrivals, keepers[0])
        say(f"all {PEOPLE} people have arrived")
        room = common.View(boot, admitted)
        let_in = {event: [] for event in queues}
        for m in room.until(PEOPLE, "people are let in"):
            let_in[m.key().decode()].append(m.value().decode())
    finally:
        for keeper in keepers:
            keeper.kill()
    for event, queue in queues.items():
        check(let_in[event] == queue, f"the order at {event}")
    say(f"ok: at each of {EVENTS} events all were let in once, in the order in which they came")


if __name__ == "__main__":
    main()
