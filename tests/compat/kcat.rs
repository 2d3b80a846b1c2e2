//! kcat (Debian's, with an old librdkafka): writes by its own means, reads its own and Java's
//! topics.

use std::fs;

use streamd_tests::client::{CODECS, Client, Dumped, hex, now_ms};
use streamd_tests::run::{command, output, run};
use streamd_tests::wire;

use crate::Fixture;

const NULL: &str = "~";

/// Text of the records of one partition for kcat: a line each, key and value parted by a tab.
fn lines(partition: usize) -> Vec<(Option<String>, String)> {
    (0..80)
        .map(|i| match i % 4 {
            0 => (None, format!("no key {partition} {i}")),
            1 => (Some(format!("k{i}")), String::new()),
            _ => (
                Some(format!("k{i}")),
                format!("value {partition} {i} {}", "x".repeat(i)),
            ),
        })
        .collect()
}

fn write(boot: &str, topic: &str, codec: &str) {
    for partition in 0..3 {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let text: String = lines(partition)
            .into_iter()
            .map(|(key, value)| key.map_or_else(String::new, |k| k + "\t") + &value + "\n")
            .collect();
        fs::write(file.path(), text).expect("a temporary file");
        run(command("kcat")
            .args([
                "-P",
                "-b",
                boot,
                "-t",
                topic,
                "-p",
                &partition.to_string(),
                "-K",
                "\t",
            ])
            .args(["-H", "origin=kcat", "-z", codec, "-l"])
            .arg(file.path()));
    }
}

/// kcat's reading of topics, in the drivers' form.
pub fn read(boot: &str, topics: &[String]) -> Dumped {
    let mut out = String::new();
    for topic in topics {
        let form = "%p\t%o\t%T\t%K\t%k\t%S\t%s\t%h\n";
        let text = output(command("kcat").args([
            "-C",
            "-b",
            boot,
            "-t",
            topic,
            "-o",
            "beginning",
            "-e",
            "-q",
            "-f",
            form,
        ]));
        for line in text.lines() {
            let f: Vec<&str> = line.split('\t').collect();
            assert_eq!(f.len(), 8, "kcat's line has 8 fields: {line}");
            let bytes = |len: &str, text: &str| {
                if len == "-1" {
                    NULL.into()
                } else {
                    hex(text.as_bytes())
                }
            };
            let headers: Vec<String> = f[7]
                .split(',')
                .filter_map(|h| h.split_once('='))
                .map(|(name, value)| format!("{name}={}", hex(value.as_bytes())))
                .collect();
            let (key, value) = (bytes(f[3], f[4]), bytes(f[5], f[6]));
            let fields = [topic, f[0], f[1], f[2], &key, &value, &headers.join(";")];
            out += &(fields.join("\t") + "\n");
        }
    }
    Dumped::parse(&out)
}

/// What kcat wrote between two moments is there, in order.
fn assert_written(dumped: &Dumped, reader: &str, topic: &str, (from, to): (u64, u64)) {
    for partition in 0..3 {
        let got = dumped.partition(topic, partition as u32);
        let want = lines(partition);
        assert_eq!(
            got.len(),
            want.len(),
            "{reader}: records of {topic}-{partition}"
        );
        for (i, ((offset, fields), (key, value))) in got.iter().zip(want).enumerate() {
            let key = key.map_or_else(|| NULL.to_owned(), |k| hex(k.as_bytes()));
            let time: u64 = fields[0].parse().expect("a timestamp");
            let what = format!("{reader}: {topic}-{partition} at {i}");
            assert_eq!(*offset, i as u64, "{what}: offset");
            assert!(
                (from..=to).contains(&time),
                "{what}: {time} is not in {from}..={to}"
            );
            assert_eq!(
                fields[1..],
                [key, hex(value.as_bytes()), "origin=6b636174".into()],
                "{what}"
            );
        }
    }
}

#[test]
fn kcat() {
    let fixture = Fixture::shared();
    let boot = fixture.boot();
    let topics = CODECS.map(|codec| fixture.name("kcat") + "-" + codec);
    // kcat makes no topics; another client's admin does.
    for topic in &topics {
        wire::Connection::open(&boot).create_topic(topic, 3, &[]);
    }
    let from = now_ms();
    for (topic, codec) in topics.iter().zip(CODECS) {
        write(&boot, topic, codec);
    }
    let span = (from, now_ms());
    let (own, java) = (read(&boot, &topics), Client::Java.dump(&boot, &topics));
    for topic in &topics {
        assert_written(&own, "kcat", topic, span);
        assert_written(&java, "java", topic, span);
    }
    let javas = fixture.java_topics();
    read(&boot, javas).assert_holds("kcat", javas, &fixture.records);
    let listed = output(command("kcat").args(["-L", "-b", &boot, "-t", &topics[0]]));
    assert!(
        listed.contains(&format!("topic \"{}\" with 3 partitions", topics[0])),
        "{listed}"
    );
}
