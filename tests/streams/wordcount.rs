//! Kafka Streams counts words with `exactly_once_v2`, in two instances, while they and the broker
//! are killed in turn.
//!
//! Every single count is written (its cache is off), so each word's counts, as a reader of
//! committed records has them, must be 1, 2, 3, ... to what a model counted, in this order. So must
//! the fold of the changelog, which is compacted meanwhile and which a killed instance restores its
//! state from; and what was counted has been deleted from the repartition topic.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use streamd_tests::broker::Broker;
use streamd_tests::child::Child;
use streamd_tests::install;
use streamd_tests::run::output;
use streamd_tests::wire::Connection;

const PARTITIONS: i32 = 3;
const WORDS_PER_LINE: usize = 5;
/// From one line to the next.
const PACE: Duration = Duration::from_millis(4);
/// Who is killed, one after another.
const VICTIMS: [Victim; 4] = [
    Victim::Counter,
    Victim::Broker,
    Victim::Counter,
    Victim::Broker,
];
const NAMES: [&str; 2] = ["one", "two"];
/// Counted undisturbed after the last kill: segments of a second are rolled, and so compacted.
const CALM: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(120);
const CHANGELOG: &str = "wc-counts-changelog";
const REPARTITION: &str = "wc-by-word-repartition";

enum Victim {
    Broker,
    /// The instance that counts at the moment.
    Counter,
}

/// Lines of words of which some are frequent and most are rare.
fn lines() -> impl Iterator<Item = String> {
    let mut x = 42_u64;
    let mut word = move || {
        x = x
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        let (which, bits) = (x >> 33, (x >> 20) % 8);
        format!("w{}", which % (2 << bits))
    };
    std::iter::repeat_with(move || {
        let words: Vec<String> = (0..WORDS_PER_LINE).map(|_| word()).collect();
        words.join(" ")
    })
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

/// Writes lines until it is told to stop, and gives those.
fn feed(boot: &str, stop: &AtomicBool) -> Vec<String> {
    let mut command = install::word_count();
    let mut feed = Child::start("feed", command.args(["feed", boot, "lines"]));
    let mut fed = Vec::new();
    for line in lines() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        feed.say(&line);
        fed.push(line);
        sleep(PACE);
    }
    feed.close_input();
    assert!(feed.wait(PATIENCE).success(), "{}", feed.printed());
    fed
}

/// Waits until one of them has counted something since this was asked, and says which.
fn busy(counters: &mut [Child]) -> usize {
    let deadline = Instant::now() + PATIENCE;
    for counter in &mut *counters {
        let _ = counter.printed();
    }
    loop {
        for (which, counter) in counters.iter_mut().enumerate() {
            assert!(counter.runs(), "{}", counter.printed());
            let line = counter.line(Duration::from_millis(20));
            if line.is_some_and(|l| l.starts_with("counted")) {
                return which;
            }
        }
        let late = Instant::now() > deadline;
        assert!(!late, "nobody counts: {}", counters[0].printed());
    }
}

/// Kills one after another, each while words are being counted.
fn kill_all(broker: &mut Broker, counters: &mut Vec<Child>, state: &Path) {
    let boot = broker.addr();
    for victim in VICTIMS {
        let which = busy(counters);
        match victim {
            Victim::Counter => {
                let name = counters[which].name().to_owned();
                counters.remove(which).kill();
                counters.push(counter(&boot, state, &name));
            }
            Victim::Broker => {
                broker.kill();
                broker.start_again();
            }
        }
    }
    busy(counters);
}

#[test]
fn words_are_counted_once_whoever_is_killed() {
    let _turn = crate::turn();
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
    let mut counters: Vec<Child> = NAMES.map(|n| counter(&boot, state.path(), n)).into();
    for counter in &mut counters {
        counter.expect("RUNNING", PATIENCE);
    }
    let stop = AtomicBool::new(false);
    let lines = thread::scope(|scope| {
        let fed = scope.spawn(|| feed(&boot, &stop));
        let killed = catch_unwind(AssertUnwindSafe(|| {
            kill_all(&mut broker, &mut counters, state.path());
            sleep(CALM);
        }));
        stop.store(true, Ordering::Relaxed);
        let fed = fed.join().expect("the feed");
        killed.unwrap_or_else(|why| resume_unwind(why));
        fed
    });
    let want = model(&lines);
    let words = lines.len() * WORDS_PER_LINE;

    let deadline = Instant::now() + PATIENCE;
    let mut found = counts(&boot, "counts");
    while total(&found) < words {
        let late = Instant::now() > deadline;
        assert!(!late, "{} words of {words} are counted", total(&found));
        sleep(Duration::from_millis(500));
        found = counts(&boot, "counts");
    }
    for counter in &mut counters {
        assert!(counter.runs(), "{}", counter.printed());
        counter.close_input();
        assert!(counter.wait(PATIENCE).success(), "{}", counter.printed());
    }
    let found = counts(&boot, "counts");
    let seen: Vec<&String> = found.keys().collect();
    assert_eq!(seen, want.keys().collect::<Vec<_>>());
    for (word, count) in &want {
        let rising: Vec<u64> = (1..=*count).collect();
        assert_eq!(found[word], rising, "the counts of {word}");
    }
    check_internal(&boot, &want, words);
}

/// The topics that Streams made for itself.
fn check_internal(boot: &str, want: &BTreeMap<String, u64>, words: usize) {
    let deadline = Instant::now() + PATIENCE;
    let mut log = counts(boot, CHANGELOG);
    while total(&log) >= words * 3 / 4 {
        let late = Instant::now() > deadline;
        assert!(!late, "{} of {words}: not compacted", total(&log));
        sleep(Duration::from_millis(500));
        log = counts(boot, CHANGELOG);
    }
    let folded: BTreeMap<String, u64> = log
        .iter()
        .map(|(word, counts)| (word.clone(), *counts.last().expect("a count")))
        .collect();
    assert_eq!(&folded, want, "the fold of the changelog");

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
    assert!(start > 0, "what was counted is deleted: {listed}");
}
