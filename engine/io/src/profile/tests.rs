//! Real threads, real signals: known code must be found.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::*;
use crate::{Class, RuntimeOptions};

/// One profile at a time.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[inline(never)]
fn outer_of_the_chain(stop: &AtomicBool) -> u64 {
    black_box(middle_of_the_chain(stop) + 1)
}

#[inline(never)]
fn middle_of_the_chain(stop: &AtomicBool) -> u64 {
    black_box(inner_of_the_chain(stop) + 1)
}

#[inline(never)]
fn inner_of_the_chain(stop: &AtomicBool) -> u64 {
    let mut n = 0u64;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..100 {
            n = black_box(n.wrapping_mul(31).wrapping_add(7));
        }
    }
    n
}

/// Runs `work` on a thread of the name while a profile is taken; its lines.
fn profiled(name: &str, work: impl FnOnce(&AtomicBool) + Send + 'static) -> Vec<(String, u64)> {
    let _turn = turn();
    let stop = Arc::new(AtomicBool::new(false));
    let theirs = stop.clone();
    let body = move || {
        know_stack();
        work(&theirs);
    };
    let thread = std::thread::Builder::new().name(name.to_owned());
    let thread = thread.spawn(body).unwrap();
    let profile = record(Duration::from_millis(700), 199).unwrap();
    stop.store(true, Ordering::Relaxed);
    thread.join().unwrap();
    let text = profile.folded();
    let lines = text.lines().filter(|line| line.starts_with(name));
    let split = |line: &str| {
        let (stack, weight) = line.rsplit_once(' ').unwrap();
        (stack.to_owned(), weight.parse().unwrap())
    };
    lines.map(split).collect()
}

/// The share of the samples whose stack has all of `parts`, in order.
fn share(lines: &[(String, u64)], parts: &[&str]) -> f64 {
    let has = |stack: &str| {
        let mut rest = stack;
        parts.iter().all(|part| match rest.split_once(part) {
            Some((_, behind)) => {
                rest = behind;
                true
            }
            None => false,
        })
    };
    let all: u64 = lines.iter().map(|l| l.1).sum();
    let those: u64 = lines.iter().filter(|l| has(&l.0)).map(|l| l.1).sum();
    assert!(all >= 10, "too few samples: {lines:?}");
    those as f64 / all as f64
}

#[test]
fn a_known_chain_of_calls_is_found() {
    let lines = profiled("chain", |stop| {
        outer_of_the_chain(stop);
    });
    let parts = [
        "outer_of_the_chain;",
        "middle_of_the_chain;",
        "inner_of_the_chain",
    ];
    let share = share(&lines, &parts);
    assert!(share > 0.9, "{share}: {lines:#?}");
}

#[inline(never)]
fn copies_much(stop: &AtomicBool) {
    let (from, mut to) = (vec![7u8; 1 << 20], vec![0u8; 1 << 20]);
    while !stop.load(Ordering::Relaxed) {
        to.copy_from_slice(black_box(&from));
        black_box(&mut to);
    }
}

#[test]
fn the_caller_of_a_function_without_a_frame_is_found() {
    let lines = profiled("copies", copies_much);
    let share = share(&lines, &["copies_much;", "mem"]);
    assert!(share > 0.8, "{share}: {lines:#?}");
}

#[inline(never)]
fn allocates_much(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let all: Vec<Vec<u8>> = (0..64).map(|i| Vec::with_capacity(i * 37)).collect();
        black_box(all);
    }
}

#[test]
fn stacks_go_through_the_allocator() {
    let lines = profiled("allocates", allocates_much);
    let share = share(&lines, &["allocates_much"]);
    assert!(share > 0.9, "{share}: {lines:#?}");
}

#[inline(never)]
fn calls_the_kernel(stop: &AtomicBool) {
    let file = std::fs::File::open("/dev/zero").unwrap();
    let mut buf = vec![0u8; 64 << 10];
    while !stop.load(Ordering::Relaxed) {
        std::io::Read::read_exact(&mut &file, &mut buf).unwrap();
    }
}

#[test]
fn time_in_the_kernel_is_shown_as_such() {
    let lines = profiled("kernel", calls_the_kernel);
    let share = share(&lines, &["calls_the_kernel;", ";[kernel]"]);
    assert!(share > 0.5, "{share}: {lines:#?}");
}

#[test]
fn one_profile_at_a_time_and_late_threads_are_seen() {
    let _turn = turn();
    let other = std::thread::spawn(|| {
        // Until the other one runs, this one may.
        while record(Duration::ZERO, 1).is_ok() {}
    });
    let late = std::thread::Builder::new().name("late".into());
    let late = late.spawn(|| {
        std::thread::sleep(Duration::from_millis(100));
        let thread = std::thread::Builder::new().name("later".into());
        let body = || {
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_millis(1500) {
                black_box(0);
            }
        };
        thread.spawn(body).unwrap().join().unwrap();
    });
    let late = late.unwrap();
    let profile = loop {
        match record(Duration::from_millis(1500), 99) {
            Ok(profile) => break profile,
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::ResourceBusy),
        }
    };
    other.join().unwrap();
    late.join().unwrap();
    let text = profile.folded();
    assert!(text.lines().any(|l| l.starts_with("later;")), "{text}");
    assert_eq!(profile.lost, 0);
}

#[inline(never)]
fn spins_on_purpose(time: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < time {
        black_box(0);
    }
}

#[test]
fn a_task_that_holds_its_shard_is_found() {
    let options = RuntimeOptions {
        cores: Vec::new(),
        ..RuntimeOptions::default()
    };
    let mine = || {
        let all = stalls().into_iter();
        let mut mine = all.filter(|s| s.place.file().contains("profile/tests"));
        mine.find(|s| !s.ongoing && !s.stack().is_empty())
    };
    crate::run(options, move |env| async move {
        // On a busy machine most of those may be lack of a core, which is no stall.
        for _ in 0..100 {
            env.sleep(Duration::from_millis(30)).await;
            if mine().is_some() {
                break;
            }
            env.spawn(Class::Background, async {
                spins_on_purpose(Duration::from_millis(30));
            })
            .await;
        }
    })
    .unwrap();
    let stall = mine().expect("the stall is kept");
    let ms = stall.took.as_millis();
    assert!((10..1000).contains(&ms), "{stall}");
    assert_eq!(stall.class, Class::Background);
    let stack = stall.stack().join("\n");
    assert!(stack.contains("spins_on_purpose"), "{stack}");
    let folded = folded_stalls(std::slice::from_ref(&stall));
    let weight = format!(" {}\n", stall.took.as_micros());
    assert!(
        folded.starts_with("shard;") && folded.ends_with(&weight),
        "{folded}"
    );
}
