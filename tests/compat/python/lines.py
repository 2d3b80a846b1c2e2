"""The line format that all drivers share (tab separated; bytes are hex, null is ~, headers are name=hex;name=hex).

Input lines: partition, timestamp, key, value, headers. Output lines: topic, partition, offset, then the same.
"""

import sys
import threading
from typing import NamedTuple, Optional

PARTITIONS = 3


class Record(NamedTuple):
    partition: int
    timestamp: int
    key: Optional[bytes]
    value: Optional[bytes]
    headers: list


def from_hex(text):
    return None if text == "~" else bytes.fromhex(text)


def to_hex(data):
    return "~" if data is None else bytes(data).hex()


def read(path):
    with open(path) as file:
        for line in file:
            partition, timestamp, key, value, headers = line.rstrip("\n").split("\t")
            pairs = (h.split("=", 1) for h in headers.split(";") if h)
            yield Record(int(partition), int(timestamp), from_hex(key), from_hex(value),
                         [(name, from_hex(data)) for name, data in pairs])


def write(topic, partition, offset, timestamp, key, value, headers):
    headers = ";".join(f"{name}={to_hex(data)}" for name, data in headers or [])
    print(topic, partition, offset, timestamp, to_hex(key), to_hex(value), headers, sep="\t")


class Owned:
    """What a member of a group owns, as the group's test is told."""

    def __init__(self):
        self.parts = set()

    def change(self, more=(), less=()):
        self.parts = (self.parts | set(more)) - set(less)
        print("owns", *sorted(self.parts), flush=True)


def stop_asked():
    """Is set when a line comes in, or the input ends."""
    asked = threading.Event()

    def wait():
        sys.stdin.readline()
        asked.set()
    threading.Thread(target=wait, daemon=True).start()
    return asked


def say_read(partition, offset):
    print("read", partition, offset, flush=True)


def main(produce, dump, admin, group, txn=None):
    """Commands: produce BOOTSTRAP FILE PREFIX CODECS | dump BOOTSTRAP TOPIC... | admin BOOTSTRAP PREFIX
    | group BOOTSTRAP TOPIC GROUP [INSTANCE] | txn BOOTSTRAP TOPIC"""
    command, boot, *rest = sys.argv[1:]
    if command == "produce":
        produce(boot, list(read(rest[0])), rest[1], rest[2].split(","))
    elif command == "dump":
        dump(boot, rest)
    elif command == "admin":
        admin(boot, rest[0])
    elif command == "group":
        group(boot, *rest)
    elif command == "txn" and txn:
        txn(boot, *rest)
    else:
        sys.exit(f"unknown command {command}")


def same(got, want, what):
    assert got == want, f"{what}: got {got!r}, expected {want!r}"
