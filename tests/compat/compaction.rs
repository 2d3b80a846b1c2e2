//! A compacted topic in every codec: kcat (librdkafka) writes it, Java and kcat read it while it is
//! compacted. Each reader sees offsets that go up, and of each key at least what was
//! there when it began; afterwards all see the same: the last value of each key.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use streamd_tests::broker::Broker;
use streamd_tests::client::{CODECS, Client, Dumped, hex};
use streamd_tests::run::{command, run};
use streamd_tests::wire::Connection;

use crate::kcat;

const TOPIC: &str = "changelog";
const KEYS: usize = 150;
const ROUNDS: usize = 5;

/// Values that do not pack well, so that segments fill; each begins with its number.
fn value(number: usize) -> String {
    let mut x = number as u64 + 1;
    let mut noise = String::new();
    for _ in 0..60 {
        x = x
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        noise += &format!("{:08x}", x >> 32);
    }
    format!("{number:08} {noise}")
}

/// Writes a line for each key, some twice, in one codec; gives the number after the last one.
fn write(boot: &str, codec: &str, first: usize) -> usize {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let mut text = String::new();
    let count = KEYS * 4;
    for i in 0..count {
        text += &format!("key-{}\t{}\n", i * 7 % KEYS, value(first + i));
    }
    fs::write(file.path(), text).expect("a temporary file");
    run(command("kcat")
        .args(["-P", "-b", boot, "-t", TOPIC, "-p", "0", "-K", "\t"])
        .args(["-z", codec, "-l"])
        .arg(file.path()));
    first + count
}

/// The last number of each key.
fn last(dumped: &Dumped, reader: &str) -> BTreeMap<String, usize> {
    let (mut before, mut last) = (None, BTreeMap::new());
    for (offset, fields) in dumped.partition(TOPIC, 0) {
        assert!(
            before < Some(*offset),
            "{reader}: {offset} after {before:?}"
        );
        before = Some(*offset);
        let digits = fields[2]
            .get(..16)
            .expect("a value that begins with a number");
        let number: String = digits
            .as_bytes()
            .chunks(2)
            .map(|d| char::from(d[1]))
            .collect();
        last.insert(fields[1].clone(), number.parse().expect("a number"));
    }
    last
}

type Reader = (&'static str, fn(&str) -> Dumped);

const READERS: [Reader; 2] = [
    ("java", |boot| Client::Java.dump(boot, &[TOPIC.into()])),
    ("kcat", |boot| kcat::read(boot, &[TOPIC.into()])),
];

#[test]
fn a_topic_is_read_while_it_is_compacted() {
    let broker = Broker::start(&["--set", "log.cleaner.backoff.ms=10"]);
    let boot = broker.addr();
    let configs = [
        ("cleanup.policy", "compact"),
        ("segment.bytes", "1048576"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("max.message.bytes", "1000000"),
    ];
    Connection::open(&boot).create_topic(TOPIC, 1, &configs);
    let mut next = 0;
    let mut seen = 0;
    for _ in 0..ROUNDS {
        let first = next;
        thread::scope(|scope| {
            let readers = READERS.map(|(name, read)| {
                let boot = boot.clone();
                scope.spawn(move || last(&read(&boot), name))
            });
            for codec in CODECS {
                next = write(&boot, codec, next);
            }
            for reader in readers {
                let last = reader.join().expect("a reader");
                assert!(
                    last.values().all(|&n| n + KEYS >= first),
                    "older than {first}"
                );
                assert!(first == 0 || last.len() == KEYS, "{} keys", last.len());
                seen += 1;
            }
        });
    }
    assert_eq!(seen, ROUNDS * READERS.len());
    let want: BTreeMap<String, usize> = (0..KEYS * 4)
        .map(|i| (i, next - KEYS * 4 + i))
        .map(|(i, n)| (hex(format!("key-{}", i * 7 % KEYS).as_bytes()), n))
        .collect();
    // Until the compactor has nothing more to do but the active segment.
    let deadline = Instant::now() + Duration::from_secs(30);
    let most = 2 * (1 << 20) / 480 + KEYS;
    loop {
        let dumped = kcat::read(&boot, &[TOPIC.into()]);
        assert_eq!(last(&dumped, "kcat"), want);
        if dumped.partition(TOPIC, 0).len() < most {
            break;
        }
        assert!(Instant::now() < deadline, "compaction comes to an end");
        thread::sleep(Duration::from_millis(200));
    }
    for (name, read) in READERS {
        assert_eq!(last(&read(&boot), name), want, "{name}");
    }
    assert!(!broker.log().contains("offline"), "{}", broker.log());
}
