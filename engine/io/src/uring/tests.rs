//! Tests of what only the kernel arm has: the guards against glommio's defects, each with a proof
//! that the defect is there.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use super::Knobs;
use crate::conformance::test_dir;
use crate::{Bytes, Class, Env, OpenOptions, Part, RuntimeOptions, Stats};

fn options(knobs: Knobs) -> RuntimeOptions {
    RuntimeOptions {
        cores: vec![],
        knobs,
        ..RuntimeOptions::default()
    }
}

fn on<F, Fut, T>(knobs: Knobs, f: F) -> T
where
    F: FnOnce(Env) -> Fut + Send + 'static,
    Fut: Future<Output = T> + 'static,
    T: Send + 'static,
{
    crate::run(options(knobs), f).unwrap()
}

/// Yields as careless code does: it only wakes itself.
async fn raw_yield() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn burn(d: Duration) {
    let start = Instant::now();
    while start.elapsed() < d {
        std::hint::spin_loop();
    }
}

/// Two tasks that are always ready, for `most`. The longest time without progress, and the stats
/// if the shard ended by itself.
fn always_ready(knobs: Knobs, most: Duration) -> (Duration, Option<Stats>) {
    let beat = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let (b, s) = (beat.clone(), stop.clone());
    let main = move |env: Env| async move {
        let worker = || {
            let (b, s) = (b.clone(), s.clone());
            env.spawn(Class::Latency, async move {
                while !s.load(Ordering::Relaxed) {
                    burn(Duration::from_micros(20));
                    b.fetch_add(1, Ordering::Relaxed);
                    raw_yield().await;
                }
            })
        };
        let (one, two) = (worker(), worker());
        one.await;
        two.await;
        env.stats()
    };
    let thread = std::thread::spawn(move || crate::run(options(knobs), main).unwrap());
    let start = Instant::now();
    let (mut last, mut at, mut worst) = (0, start, Duration::ZERO);
    while start.elapsed() < most && worst < Duration::from_millis(1500) {
        std::thread::sleep(Duration::from_millis(5));
        let now = beat.load(Ordering::Relaxed);
        worst = worst.max(at.elapsed());
        if now != last {
            (last, at) = (now, Instant::now());
        }
    }
    stop.store(true, Ordering::Relaxed);
    let hung = worst >= Duration::from_millis(1500);
    // A shard that hangs cannot be ended: its thread stays.
    (worst, (!hung).then(|| thread.join().unwrap()))
}

#[test]
fn guard_1_the_watch_wakes_a_shard_that_parked_with_work() {
    let short = Duration::from_micros(60);
    let bad = Knobs {
        preempt: short,
        watch: false,
        ..Knobs::default()
    };
    let (worst, _) = always_ready(bad, Duration::from_secs(30));
    eprintln!("without: {worst:?}");
    assert!(
        worst >= Duration::from_millis(1500),
        "the defect does not show any more: {worst:?}"
    );
    let good = Knobs {
        preempt: short,
        ..Knobs::default()
    };
    let (worst, stats) = always_ready(good, Duration::from_secs(4));
    let stats = stats.expect("the shard goes on");
    eprintln!("with: {worst:?} {stats:?}");
    assert!(stats.rescues > 0, "{stats:?}");
    assert!(worst < Duration::from_secs(1), "{worst:?}");
    let (_, stats) = always_ready(Knobs::default(), Duration::from_secs(2));
    eprintln!("default: {stats:?}");
}
