//! Kafka Streams counts words with `exactly_once_v2`, in two instances, while they and the broker
//! are killed in turn.
//!
//! Every single count is written (its cache is off), so each word's counts, as a reader of
//! committed records has them, must be 1, 2, 3, ... to what a model counted, in this order. So must
//! the fold of the changelog, which is compacted meanwhile and which a killed instance restores its
//! state from; and what was counted has been deleted from the repartition topic.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use streamd_tests::broker::Broker;
use streamd_tests::child::Child;
use streamd_tests::install;
use streamd_tests::run::output;
use streamd_tests::wire::Connection;

const PARTITIONS: i32 = 3;
const LINES: usize = 4_000;
const WORDS_PER_LINE: usize = 5;
/// From one line to the next.
const PACE: Duration = Duration::from_millis(3);
const NAMES: [&str; 2] = ["one", "two"];
const PATIENCE: Duration = Duration::from_secs(60);
const CHANGELOG: &str = "wc-counts-changelog";
const REPARTITION: &str = "wc-by-word-repartition";

/// Lines of words of which some are frequent and most are rare.
fn lines() -> Vec<String> {
    let mut x = 42_u64;
    let mut word = || {
        x = x
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        let (which, bits) = (x >> 33, (x >> 20) % 8);
        format!("w{}", which % (2 << bits))
    };
    let line = |_| {
        let words: Vec<String> = (0..WORDS_PER_LINE).map(|_| word()).collect();
        words.join(" ")
    };
    (0..LINES).map(line).collect()
}

fn model(lines: &[String]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for word in lines.iter().flat_map(|l| l.split(' ')) {
        *counts.entry(word.to_owned()).or_default() += 1;
    }
    counts
}

fn counter(boot: &str, state: &Path, name: &str) -> Child {
    let mut command = install::word_count();
    command.args(["count", boot]).arg(state.join(name));
    Child::start(name, &mut command)
}

fn ask(args: &[&str]) -> String {
    output(install::word_count().args(args))
}

/// All that is committed in a topic: each word's counts in their order.
fn counts(boot: &str, topic: &str) -> BTreeMap<String, Vec<u64>> {
    let mut found = BTreeMap::<String, Vec<u64>>::new();
    for line in ask(&["numbers", boot, topic]).lines() {
        let f: Vec<&str> = line.split('\t').collect();
        let count = f[2].parse().expect("a count");
        found.entry(f[1].to_owned()).or_default().push(count);
    }
    found
}

fn total(counts: &BTreeMap<String, Vec<u64>>) -> usize {
    counts.values().map(Vec::len).sum()
}

/// Kills one; another takes its place, with the folder that it had.
fn replace(counters: &mut Vec<Child>, which: usize, boot: &str, state: &Path) {
    counters.remove(which).kill();
    counters.insert(which, counter(boot, state, NAMES[which]));
}

/// Feeds the lines, and kills one after another meanwhile.
fn run(broker: &mut Broker, state: &Path, lines: &[String]) -> Vec<Child> {
    let boot = broker.addr();
    let mut counters: Vec<Child> = NAMES.map(|n| counter(&boot, state, n)).into();
    for counter in &mut counters {
        counter.expect("RUNNING", PATIENCE);
    }
    let mut feed = install::word_count();
    let mut feed = Child::start("feed", feed.args(["feed", &boot, "lines"]));
    for (i, line) in lines.iter().enumerate() {
        feed.say(line);
        sleep(PACE);
        match i * 8 / LINES {
            _ if i % (LINES / 8) != 0 => {}
            1 | 5 => replace(&mut counters, 0, &boot, state),
            3 => replace(&mut counters, 1, &boot, state),
            2 | 4 | 6 => {
                broker.kill();
                broker.start_again();
            }
            _ => {}
        }
    }
    feed.close_input();
    assert!(feed.wait(PATIENCE).success(), "{}", feed.printed());
    counters
}

#[test]
fn words_are_counted_once_whoever_is_killed() {
    let options = [
        "group.initial.rebalance.delay.ms=0",
        "log.cleaner.backoff.ms=100",
    ];
    let options: Vec<&str> = options.iter().flat_map(|&o| ["--set", o]).collect();
    let mut broker = Broker::start(&options);
    let boot = broker.addr();
    for topic in ["lines", "counts"] {
        Connection::open(&boot).create_topic(topic, PARTITIONS, &[]);
    }
    let state = tempfile::tempdir().expect("a temporary folder");
    let lines = lines();
    let want = model(&lines);
    let mut counters = run(&mut broker, state.path(), &lines);

    let deadline = Instant::now() + PATIENCE;
    let mut found = counts(&boot, "counts");
    while total(&found) < LINES * WORDS_PER_LINE {
        assert!(
            Instant::now() < deadline,
            "{} words of {} are counted",
            total(&found),
            LINES * WORDS_PER_LINE
        );
        sleep(Duration::from_millis(500));
        found = counts(&boot, "counts");
    }
    for counter in &mut counters {
        assert!(counter.runs(), "{}", counter.printed());
        counter.close_input();
        assert!(counter.wait(PATIENCE).success(), "{}", counter.printed());
    }
    let found = counts(&boot, "counts");
    let words: Vec<&String> = found.keys().collect();
    assert_eq!(words, want.keys().collect::<Vec<_>>());
    for (word, count) in &want {
        let rising: Vec<u64> = (1..=*count).collect();
        assert_eq!(found[word], rising, "the counts of {word}");
    }
    check_internal(&boot, &want);
}

/// The topics that Streams made for itself.
fn check_internal(boot: &str, want: &BTreeMap<String, u64>) {
    let log = counts(boot, CHANGELOG);
    let folded: BTreeMap<String, u64> = log
        .iter()
        .map(|(word, counts)| (word.clone(), *counts.last().expect("a count")))
        .collect();
    assert_eq!(&folded, want, "the fold of the changelog");
    let words = LINES * WORDS_PER_LINE;
    let left = total(&log);
    assert!(left < words * 3 / 4, "{left} of {words}: not compacted");

    let listed = ask(&["topics", boot]);
    let topic = |name: &str| -> Vec<String> {
        let line = listed.lines().find(|l| l.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in:\n{listed}"));
        line.split('\t').map(str::to_owned).collect()
    };
    assert_eq!(topic(CHANGELOG)[1], "compact");
    let passed_on = topic(REPARTITION);
    assert_eq!(passed_on[1..3], ["delete", "-1"]);
    let start: usize = passed_on[3].parse().expect("an offset");
    assert!(start > words / 2, "what was counted is deleted: {listed}");
}
