//! Wake-ups between shards, timers in numbers, operations that nobody waits for any more.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_lite::future::poll_once;

use super::{on, options};
use crate::conformance::test_dir;
use crate::{BLOCK, Bytes, Class, Env, OpenOptions, RuntimeOptions};

#[test]
fn no_wake_between_shards_is_lost() {
    // Both sleep and wake each other all the time; one lost wake and neither goes on.
    let mut ends = crate::mailbox::mesh::<u64>(2, 4);
    let slots: Vec<_> = (0..2).map(|_| Arc::new(Mutex::new(ends.pop()))).collect();
    let rounds = Arc::new(AtomicU64::new(0));
    let seen = rounds.clone();
    let options = RuntimeOptions {
        cores: vec![0, *crate::available_cores().last().unwrap()],
        ..RuntimeOptions::default()
    };
    let until = Instant::now() + Duration::from_secs(10);
    let runtime = crate::start(options, move |env, shard| {
        let end = slots[shard].lock().unwrap().take().unwrap();
        let rounds = rounds.clone();
        async move {
            let other = 1 - end.index();
            for i in 0u64.. {
                if end.index() == 0 {
                    let stop = Instant::now() >= until;
                    end.send(other, if stop { u64::MAX } else { i }).await;
                    if stop {
                        return;
                    }
                    assert_eq!(end.recv().await, i);
                    rounds.fetch_add(1, Ordering::Relaxed);
                } else {
                    match end.recv().await {
                        u64::MAX => return,
                        i => end.send(other, i).await,
                    }
                }
                // Sometimes the other has time to fall asleep, sometimes just not.
                for _ in 0..env.random_u64() % 64 {
                    std::hint::spin_loop();
                }
                if i % 997 == 0 {
                    env.sleep(Duration::from_micros(200)).await;
                }
            }
        }
    })
    .unwrap();
    let done = std::thread::spawn(move || runtime.join().unwrap());
    while Instant::now() < until + Duration::from_secs(5) && !done.is_finished() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let rounds = seen.load(Ordering::Relaxed);
    eprintln!("{rounds} rounds");
    assert!(done.is_finished(), "both sleep after {rounds} rounds");
    assert!(rounds > 1_000, "{rounds}");
}

#[test]
fn a_shard_that_is_awake_is_not_rung() {
    let options = options();
    let thread = std::thread::spawn(move || {
        let shard = crate::uring::executor(&options, None).unwrap();
        let home = shard.home.clone();
        let rings = crate::uring::run(&shard, &options, move |env| async move {
            let (tx, rx) = std::sync::mpsc::channel::<std::task::Waker>();
            let waker = std::future::poll_fn(|cx| std::task::Poll::Ready(cx.waker().clone())).await;
            tx.send(waker).unwrap();
            let before = home.rings();
            let helper = std::thread::spawn(move || {
                let waker = rx.recv().unwrap();
                (0..1000).for_each(|_| waker.wake_by_ref());
            });
            // Busy: it never sleeps.
            let start = env.now();
            while !helper.is_finished() || env.now() - start < Duration::from_millis(20) {
                env.yield_now().await;
            }
            home.rings() - before
        });
        rings.unwrap()
    });
    assert_eq!(thread.join().unwrap(), 0);
}

#[test]
fn thousands_of_timers() {
    on(|env: Env| async move {
        let fired = Rc::new(Cell::new(0));
        let mut tasks = Vec::new();
        for i in 0..5_000u64 {
            let (e, fired) = (env.clone(), fired.clone());
            tasks.push(env.spawn(Class::Latency, async move {
                let wait = Duration::from_micros(e.random_u64() % 200_000);
                let start = e.now();
                if i % 3 == 0 {
                    // Given up half way.
                    let mut late = pin!(e.sleep(Duration::from_secs(3600)));
                    assert!(poll_once(late.as_mut()).await.is_none());
                }
                e.sleep(wait).await;
                assert!(e.now() - start >= wait);
                fired.set(fired.get() + 1);
            }));
        }
        for task in tasks {
            task.await;
        }
        assert_eq!(fired.get(), 5_000);
    });
}

#[test]
fn more_operations_than_the_rings_hold() {
    // 8 entries to submit, 32 to complete: hundreds at once must all come back.
    let dir = test_dir();
    let path = dir.path().join("f");
    let options = RuntimeOptions {
        ring_depth: 8,
        ..options()
    };
    crate::run(options, move |env| async move {
        let open = OpenOptions::new().create().direct();
        let file = Rc::new(env.open(&path, &open).await.unwrap());
        let mut tasks = Vec::new();
        for i in 0..600u64 {
            let (e, file) = (env.clone(), file.clone());
            tasks.push(env.spawn(Class::Latency, async move {
                let mut buf = e.alloc(BLOCK);
                buf.fill(i as u8);
                file.write_at(buf, i * BLOCK as u64).await.unwrap();
                // Everything there is at once: the completions do not fit.
                let back = file.read_at(i * BLOCK as u64, BLOCK).await.unwrap();
                assert!(back.iter().all(|&b| b == i as u8));
            }));
        }
        for task in tasks {
            task.await;
        }
    })
    .unwrap();
}

#[test]
fn reads_that_were_given_up_take_nothing() {
    on(|env: Env| async move {
        let listener = env.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (_r, mut w) = env.connect(addr).await.unwrap().split();
        let (mut r, _w) = env.adopt(listener.accept().await.unwrap()).unwrap().split();
        for round in 0..500u32 {
            {
                let mut buf = [0u8; 100];
                let mut read = pin!(r.read(&mut buf));
                assert!(poll_once(read.as_mut()).await.is_none());
                if round % 2 == 0 {
                    env.yield_now().await;
                }
                if round % 5 == 0 {
                    env.sleep(Duration::from_micros(150)).await;
                }
            }
            let bytes = Bytes::copy_from_slice(&round.to_be_bytes());
            w.send(vec![bytes.into()]).await.unwrap();
            let mut got = [0u8; 4];
            let mut at = 0;
            while at < 4 {
                at += r.read(&mut got[at..]).await.unwrap();
            }
            assert_eq!(u32::from_be_bytes(got), round);
        }
    });
}

#[test]
fn a_shard_ends_with_operations_in_flight() {
    let dir = test_dir();
    let path = dir.path().join("f");
    let at = path.clone();
    on(move |env: Env| async move {
        let open = OpenOptions::new().create().direct().durable();
        let file = Rc::new(env.open(&path, &open).await.unwrap());
        for i in 0..100u64 {
            let (e, file) = (env.clone(), file.clone());
            env.spawn(Class::Latency, async move {
                let mut buf = e.alloc(BLOCK);
                buf.fill(7);
                let _ = file.write_at(buf, i * BLOCK as u64).await;
                let _ = file.sync().await;
            })
            .detach();
        }
        // Each has its first turn, and the ring its operations.
        env.yield_now().await;
        env.sleep(Duration::from_micros(1)).await;
    });
    // Nothing is written after the shard has ended.
    let before = std::fs::read(&at).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(std::fs::read(&at).unwrap(), before);
}
