//! Batches that are wrong in one way each, and what Kafka answers.

use streamd_tests::batch::{Batch, field, fix, put, record, varint};
use streamd_tests::wire::{Body, Connection, produce_body, produced};

use crate::{Fixture, Outcome, outcome};

const NONE: i16 = 0;
const CORRUPT_MESSAGE: i16 = 2;
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const MESSAGE_TOO_LARGE: i16 = 10;
const INVALID_REQUIRED_ACKS: i16 = 21;
const INVALID_TIMESTAMP: i16 = 32;
const OUT_OF_ORDER_SEQUENCE: i16 = 45;
const INVALID_PRODUCER_EPOCH: i16 = 47;
const UNSUPPORTED_COMPRESSION: i16 = 76;
const INVALID_RECORD: i16 = 87;
/// Kafka's own answer is UNKNOWN_SERVER_ERROR, from an exception that it didn't foresee.
const UNREADABLE: &[i16] = &[-1, INVALID_RECORD, CORRUPT_MESSAGE, UNSUPPORTED_COMPRESSION];

fn plain() -> Vec<u8> {
    Batch::of(&["one", "two", "three"]).encode()
}

/// A batch with a field overwritten, and right length and CRC.
fn with(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut batch = plain();
    put(&mut batch, at, bytes);
    fix(&mut batch);
    batch
}

/// A batch with a field overwritten after the CRC was made.
fn spoiled(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut batch = plain();
    put(&mut batch, at, bytes);
    batch
}

/// A batch of three whose records are made by hand.
fn records(count: i32, records: Vec<u8>) -> Vec<u8> {
    Batch {
        records,
        count,
        ..Batch::of(&["x"])
    }
    .encode()
}

/// Message format 0 or 1: offset, size, crc, magic, attributes, (timestamp), key, value.
fn old_format(magic: u8) -> Vec<u8> {
    let mut body = vec![magic, 0];
    if magic == 1 {
        body.extend(1_700_000_000_000i64.to_be_bytes());
    }
    body.extend((-1i32).to_be_bytes());
    body.extend(5i32.to_be_bytes());
    body.extend(b"value");
    let mut crc = flate2::Crc::new();
    crc.update(&body);
    let mut out = 0i64.to_be_bytes().to_vec();
    out.extend((body.len() as i32 + 4).to_be_bytes());
    out.extend(crc.sum().to_be_bytes());
    out.extend(body);
    out
}

/// Each wrong batch with the error codes that are right for it; Kafka's own is the first.
fn cases() -> Vec<(&'static str, Vec<u8>, &'static [i16])> {
    let mut long_value = vec![];
    varint(&mut long_value, 1 << 30); // a record that claims a gigabyte
    long_value.extend([0; 20]);
    let mut negative = vec![];
    varint(&mut negative, -5);
    let far = i64::MAX / 2;
    vec![
        (
            "a spoiled crc",
            spoiled(field::CRC, &[1, 2, 3, 4]),
            &[CORRUPT_MESSAGE],
        ),
        (
            "a spoiled record",
            spoiled(field::RECORDS + 8, b"X"),
            &[CORRUPT_MESSAGE],
        ),
        ("magic 0", old_format(0), &[INVALID_RECORD]),
        ("magic 1", old_format(1), &[INVALID_RECORD]),
        ("magic 3", spoiled(field::MAGIC, &[3]), &[CORRUPT_MESSAGE]),
        (
            "magic -1",
            spoiled(field::MAGIC, &[0xff]),
            &[CORRUPT_MESSAGE],
        ),
        (
            "count above the records",
            with(field::COUNT, &9i32.to_be_bytes()),
            &[INVALID_RECORD],
        ),
        (
            "count below the records",
            with(field::COUNT, &1i32.to_be_bytes()),
            &[INVALID_RECORD],
        ),
        (
            "count of 2 billion",
            with(field::COUNT, &i32::MAX.to_be_bytes()),
            &[INVALID_RECORD],
        ),
        (
            "negative count",
            with(field::COUNT, &(-1i32).to_be_bytes()),
            &[INVALID_RECORD],
        ),
        ("no records", records(0, vec![]), &[INVALID_RECORD]),
        (
            "last delta too big",
            with(field::LAST_DELTA, &9i32.to_be_bytes()),
            &[INVALID_RECORD],
        ),
        (
            "last delta negative",
            with(field::LAST_DELTA, &(-7i32).to_be_bytes()),
            &[INVALID_RECORD],
        ),
        (
            "a record longer than the batch",
            records(1, long_value),
            &[INVALID_RECORD],
        ),
        (
            "a record of negative length",
            records(1, negative),
            &[INVALID_RECORD],
        ),
        (
            "length beyond the bytes",
            spoiled(field::LENGTH, &[0, 1, 0, 0]),
            &[INVALID_RECORD],
        ),
        (
            "length of 2 GiB",
            spoiled(field::LENGTH, &i32::MAX.to_be_bytes()),
            UNREADABLE,
        ),
        (
            "length below a header",
            spoiled(field::LENGTH, &3i32.to_be_bytes()),
            &[CORRUPT_MESSAGE],
        ),
        (
            "negative length",
            spoiled(field::LENGTH, &(-9i32).to_be_bytes()),
            &[CORRUPT_MESSAGE],
        ),
        ("half a batch", plain()[..40].to_vec(), &[INVALID_RECORD]),
        ("half a length", plain()[..6].to_vec(), &[INVALID_RECORD]),
        (
            "two batches",
            [plain(), plain()].concat(),
            &[INVALID_RECORD],
        ),
        ("nothing", vec![], &[INVALID_RECORD]),
        (
            "a control batch",
            with(field::ATTRIBUTES, &0x20i16.to_be_bytes()),
            &[INVALID_RECORD],
        ),
        (
            "codec 5",
            with(field::ATTRIBUTES, &5i16.to_be_bytes()),
            UNREADABLE,
        ),
        (
            "codec 7",
            with(field::ATTRIBUTES, &7i16.to_be_bytes()),
            UNREADABLE,
        ),
        (
            "not gzip",
            with(field::ATTRIBUTES, &1i16.to_be_bytes()),
            UNREADABLE,
        ),
        (
            "not snappy",
            with(field::ATTRIBUTES, &2i16.to_be_bytes()),
            UNREADABLE,
        ),
        (
            "not lz4",
            with(field::ATTRIBUTES, &3i16.to_be_bytes()),
            UNREADABLE,
        ),
        (
            "not zstd",
            with(field::ATTRIBUTES, &4i16.to_be_bytes()),
            UNREADABLE,
        ),
        (
            "a time far ahead",
            with(field::TIME, &far.to_be_bytes()),
            &[INVALID_TIMESTAMP],
        ),
        (
            "2 MiB",
            Batch::of(&[vec![0u8; 2 << 20]]).encode(),
            &[MESSAGE_TOO_LARGE],
        ),
    ]
}

#[test]
fn wrong_batches_get_kafkas_errors_and_are_not_stored() {
    let fixture = Fixture::shared();
    let _turn = fixture.turn();
    let topic = fixture.topic("wrong-batches", &[]);
    let mut differences = Vec::new();
    for (name, batch, right) in cases() {
        let got = match outcome(&fixture, 0, 7, &produce_body(&topic, 0, &batch)) {
            Outcome::Answered(mut answer) => Some(produced(&mut answer).error),
            Outcome::Closed => None,
        };
        if !got.is_some_and(|e| right.contains(&e)) {
            differences.push(format!("{name}: got {got:?}, Kafka gives {right:?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    let fetched = fixture.connect().fetch(&topic, 0, 0).expect("a fetch");
    assert_eq!(
        (fetched.error, fetched.high),
        (NONE, 0),
        "a wrong batch was stored"
    );
    fixture.assert_serves_on();
}

/// Kafka stores an uncompressed batch whose offset deltas have gaps; refusing it is right too.
#[test]
fn gaps_in_the_offset_deltas() {
    let fixture = Fixture::shared();
    let _turn = fixture.turn();
    let topic = fixture.topic("delta-gaps", &[]);
    let mut gap = Vec::new();
    for delta in [0, 2, 3] {
        record(&mut gap, delta, None, b"v");
    }
    let produced = fixture
        .connect()
        .produce(&topic, 0, &records(3, gap))
        .expect("an answer");
    assert!(
        [NONE, INVALID_RECORD].contains(&produced.error),
        "{produced:?}"
    );
    fixture.assert_serves_on();
}

#[test]
fn wrong_requests_get_kafkas_errors() {
    let fixture = Fixture::shared();
    let _turn = fixture.turn();
    let topic = fixture.topic("wrong-requests", &[]);
    let error = |version, body: Body| match outcome(&fixture, 0, version, &body) {
        Outcome::Answered(mut answer) => Some(produced(&mut answer).error),
        Outcome::Closed => None,
    };
    let to = |topic: &str, partition| produce_body(topic, partition, &plain());
    assert_eq!(
        error(7, to(&topic, 1)),
        Some(UNKNOWN_TOPIC_OR_PARTITION),
        "partition 1 of 1"
    );
    assert_eq!(
        error(7, to(&topic, -1)),
        Some(UNKNOWN_TOPIC_OR_PARTITION),
        "partition -1"
    );
    let nowhere = format!("{topic}-nowhere");
    assert_eq!(
        error(7, to(&nowhere, 0)),
        Some(UNKNOWN_TOPIC_OR_PARTITION),
        "unknown topic"
    );
    let mut acks = to(&topic, 0);
    put(&mut acks.0, 2, &5i16.to_be_bytes());
    assert_eq!(error(7, acks), Some(INVALID_REQUIRED_ACKS), "acks=5");
    let zstd = Batch {
        codec: 4,
        ..Batch::of(&["x"])
    }
    .encode();
    let old = error(6, produce_body(&topic, 0, &zstd));
    assert_eq!(old, Some(UNSUPPORTED_COMPRESSION), "zstd before version 7");
    fixture.assert_serves_on();
}

#[test]
fn a_compacted_topic_takes_no_null_keys() {
    let fixture = Fixture::shared();
    let _turn = fixture.turn();
    let topic = fixture.topic("compacted", &[("cleanup.policy", "compact")]);
    let mut c = fixture.connect();
    assert_eq!(
        c.produce(&topic, 0, &plain()).expect("an answer").error,
        INVALID_RECORD
    );
    let mut keyed = vec![];
    record(&mut keyed, 0, Some(b"key"), b"value");
    let batch = Batch {
        records: keyed,
        ..Batch::of(&["x"])
    }
    .encode();
    assert_eq!(c.produce(&topic, 0, &batch).expect("an answer").error, NONE);
}

#[test]
fn sequences_of_a_producer_are_checked() {
    let fixture = Fixture::shared();
    let _turn = fixture.turn();
    let topic = fixture.topic("sequences", &[]);
    let mut c: Connection = fixture.connect();
    let (id, epoch) = c.init_producer().expect("a producer id");
    let mut send = |epoch: i16, sequence: i32, count: usize| {
        let values = vec!["v"; count];
        let batch = Batch {
            producer: Some((id, epoch, sequence)),
            ..Batch::of(&values)
        };
        let got = c.produce(&topic, 0, &batch.encode()).expect("an answer");
        (got.error, got.base)
    };
    assert_eq!(send(epoch, 0, 3), (NONE, 0));
    assert_eq!(send(epoch, 3, 2), (NONE, 3));
    assert_eq!(
        send(epoch, 0, 3),
        (NONE, 0),
        "a resend gets its first offset"
    );
    assert_eq!(
        send(epoch, 3, 2),
        (NONE, 3),
        "a resend gets its first offset"
    );
    assert_eq!(send(epoch, 9, 1).0, OUT_OF_ORDER_SEQUENCE, "a gap");
    assert_eq!(send(epoch, 3, 5).0, OUT_OF_ORDER_SEQUENCE, "an overlap");
    assert_eq!(
        send(epoch, 5, 1),
        (NONE, 5),
        "the next one, after refused ones"
    );
    assert_eq!(
        send(epoch + 1, 7, 1).0,
        OUT_OF_ORDER_SEQUENCE,
        "a new epoch starts at 0"
    );
    assert_eq!(send(epoch + 1, 0, 1), (NONE, 6), "a new epoch");
    assert_eq!(send(epoch, 6, 1).0, INVALID_PRODUCER_EPOCH, "an old epoch");
    for i in 1..=6 {
        assert_eq!(send(epoch + 1, i, 1), (NONE, i64::from(6 + i)));
    }
    assert_eq!(
        send(epoch + 1, 2, 1),
        (NONE, 8),
        "the fifth batch before the end"
    );
}
