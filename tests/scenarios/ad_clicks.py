"""Clicks on ads, counted by the minute; one ad has gone viral, and with it a partition is hot.

The same clicks are written four times, with four ways to choose the partition:

  by ad     its clicks are in order, in one partition, and one counter has the viral ad's work
  no key    even; every counter sees parts of every ad, and an ad's clicks have no order
  salted    the ad and a number: the parts of an ad are as many as there are salts
  compound  the ad and the country: in order for each country, and its parts mean something

A counter adds up what it reads and writes what it adds to (ad, minute), in one transaction with its offsets. Whoever
wants totals sums that up: parts of an ad are put together there, which is what the remedies cost. The totals are
exact, whatever is killed meanwhile.
"""

import collections
import itertools
import json
import multiprocessing
import random

import common
from common import check, say

ADS = 50
CLICKS = 30_000
MINUTES = 5
VIRAL_SHARE = 0.6
COUNTRIES = ["at", "br", "de", "fr", "in", "it", "jp", "mx", "no", "us", "za", "zm"]
SALTS = 16
PARTITIONS = 8
COUNTERS = 2
START_MS = 1_700_000_040_000  # a full minute


def clicks():
    """What is clicked: ad, country, and when, in milliseconds."""
    dice = random.Random(2)
    for i in range(CLICKS):
        viral = dice.random() < VIRAL_SHARE
        ad = "ad-0" if viral else f"ad-{dice.randrange(1, ADS)}"
        yield ad, dice.choice(COUNTRIES), START_MS + i * MINUTES * 60_000 // CLICKS


KEYS = {
    "by ad": lambda ad, country, turn: ad,
    "no key": lambda ad, country, turn: None,
    "salted": lambda ad, country, turn: f"{ad}#{turn % SALTS}",
    "compound": lambda ad, country, turn: f"{ad}/{country}",
}


def write(boot, topic, key_of):
    # Without a key the client stays with a partition for a moment: a short one makes it even.
    producer = common.producer(boot, sticky_partitioning_linger_ms=0)
    report = common.failed("a click")
    for turn, (ad, country, at) in enumerate(clicks()):
        click = json.dumps({"ad": ad, "country": country, "turn": turn})
        producer.produce(topic, click, key_of(ad, country, turn), timestamp=at, on_delivery=report)
        producer.poll(0)
    common.flush(producer)


def count(boot, number, topic, totals):
    """A counter, in a process of its own."""
    def add(producer, messages):
        sums = collections.Counter()
        for m in messages:
            minute = m.timestamp()[1] // 60_000
            sums[json.loads(m.value())["ad"], minute] += 1
        for (ad, minute), n in sums.items():
            producer.produce(totals, json.dumps([ad, minute, n]), ad)

    common.exactly_once(boot, f"{totals}-{number}", totals, topic, add, lambda: False)


def order_is_kept(messages, unit):
    """Whether each unit's clicks lie in one partition, and so can be read in order."""
    places = collections.defaultdict(list)
    for m in messages:
        click = json.loads(m.value())
        places[unit(click)].append((m.partition(), m.offset(), click["turn"]))
    for seen in places.values():
        turns = [turn for _, _, turn in sorted(seen)]
        if len({partition for partition, _, _ in seen}) > 1 or turns != sorted(turns):
            return False
    return True


def hottest(messages):
    """The share of the fullest partition."""
    sizes = collections.Counter(m.partition() for m in messages)
    return max(sizes.values()) / len(messages)


def await_totals(view):
    """Reads what was added until it is all there; gives the sums, and of how many parts they are."""
    sums, parts = collections.Counter(), 0
    for _ in range(common.PATIENCE_S * 4):
        for m in view.read(0.25):
            ad, minute, n = json.loads(m.value())
            sums[ad, minute] += n
            parts += 1
        if sums.total() >= CLICKS:
            break
    view.read(0.5)
    check(len(view.messages) == parts, "something was counted twice")
    return sums, parts


def compare(name, messages, parts):
    """The line of the table, and what is promised of each way."""
    share = hottest(messages)
    by_ad = order_is_kept(messages, lambda click: click["ad"])
    by_country = order_is_kept(messages, lambda click: (click["ad"], click["country"]))
    order = "ad" if by_ad else "ad and country" if by_country else "none"
    say(f"  {name:9} {share:8.0%} {order:>15} {parts:8}")
    check((share > VIRAL_SHARE) == (name == "by ad"), f"the hottest partition of {name}")
    wanted = {"by ad": "ad", "compound": "ad and country"}
    check(order == wanted.get(name, "none"), f"the order of {name}")


def main():
    boot = common.bootstrap()
    model = collections.Counter((ad, at // 60_000) for ad, _, at in clicks())
    check(len(model) > ADS and model.total() == CLICKS, "the model")
    spawn = multiprocessing.get_context("spawn")
    say(f"{CLICKS} clicks, {VIRAL_SHARE:.0%} of them on one of {ADS} ads, {PARTITIONS} partitions")
    say(f"  {'way':9} {'hottest':>8} {'in order by':>15} {'parts':>8}")
    for (name, key_of), way in zip(KEYS.items(), itertools.count()):
        clicked = common.topic(boot, f"clicks-{way}", PARTITIONS, message_timestamp_type="CreateTime",
                               retention_ms="-1")
        totals = common.topic(boot, f"totals-{way}", PARTITIONS)
        counters = [spawn.Process(target=count, args=(boot, n, clicked, totals), daemon=True)
                    for n in range(COUNTERS)]
        for counter in counters:
            counter.start()
        try:
            write(boot, clicked, key_of)
            if way % 2 == 0:
                say("now: the clicks are written, and being counted")
            sums, parts = await_totals(common.View(boot, totals))
        finally:
            for counter in counters:
                counter.kill()
        check(sums == model, f"the counts, {name}")
        messages = common.View(boot, clicked).until(CLICKS, "clicks")
        compare(name, messages, parts)
    say(f"ok: the counts of {len(model)} minutes are exact in each way")


if __name__ == "__main__":
    main()
