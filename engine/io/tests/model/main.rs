//! The mailbox and the wake-ups of a shard under a model checker: the very sources, on atomics and
//! locks whose every access is interleaved, and which may show each thread what the memory model
//! allows (loom). A lost wake is a model in which nobody can go on; loom reports it.
//!
//! With the fence taken out of any of `WakerSet::register`, `WakerSet::wake`, `Door::hand_over` or
//! `Door::fall_asleep`, one of these fails.

mod sync;

#[allow(dead_code)]
#[path = "../../src/uring/door.rs"]
mod door;
#[allow(dead_code)]
#[path = "../../src/mailbox.rs"]
mod mailbox;

use std::sync::Arc;

use door::{Door, Woken};
use loom::future::block_on;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::sync::{Condvar, Mutex};
use loom::thread;

/// All interleavings with up to so many switches that nobody asked for.
fn model(preemptions: usize, check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(check);
}

/// Rung by whoever must, heard once.
struct Bell(Mutex<bool>, Condvar);

impl Bell {
    fn new() -> Bell {
        Bell(Mutex::new(false), Condvar::new())
    }

    fn ring(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_one();
    }

    fn wait(&self) {
        let mut rung = self.0.lock().unwrap();
        while !*rung {
            rung = self.1.wait(rung).unwrap();
        }
        *rung = false;
    }
}

/// A shard: takes what is handed over until `enough` says so, and sleeps when there is nothing.
fn shard<T>(door: &Door<T>, bell: &Bell, mut turn: impl FnMut(T), enough: impl Fn() -> bool) {
    loop {
        while let Some(item) = door.take() {
            turn(item);
        }
        if enough() {
            return;
        }
        if door.fall_asleep() {
            bell.wait();
            door.awake();
        }
    }
}

#[test]
fn what_is_handed_over_is_found() {
    model(3, || {
        let (door, bell) = (Arc::new(Door::new()), Arc::new(Bell::new()));
        for i in 0..2 {
            let (door, bell) = (door.clone(), bell.clone());
            thread::spawn(move || {
                if door.hand_over(i) {
                    bell.ring();
                }
            });
        }
        let seen = std::cell::Cell::new(0);
        shard(
            &door,
            &bell,
            |_| seen.set(seen.get() + 1),
            || seen.get() == 2,
        );
    });
}

#[test]
fn a_turn_sees_what_was_done_before_the_wake() {
    struct Task {
        woken: Woken,
        done: [AtomicBool; 2],
    }
    model(3, || {
        let (door, bell) = (Arc::new(Door::new()), Arc::new(Bell::new()));
        let task = Arc::new(Task {
            woken: Woken::new(),
            done: [AtomicBool::new(false), AtomicBool::new(false)],
        });
        // Its first turn is over.
        task.woken.begin_turn();
        for i in 0..2 {
            let (door, bell, task) = (door.clone(), bell.clone(), task.clone());
            thread::spawn(move || {
                task.done[i].store(true, Ordering::Relaxed);
                if task.woken.wake() && door.hand_over(task.clone()) {
                    bell.ring();
                }
            });
        }
        let seen = std::cell::Cell::new(0);
        let turn = |task: Arc<Task>| {
            task.woken.begin_turn();
            let done = task.done.iter().filter(|d| d.load(Ordering::Relaxed));
            seen.set(done.count());
        };
        shard(&door, &bell, turn, || seen.get() == 2);
    });
}

#[test]
fn nothing_stays_behind_a_closed_door() {
    model(4, || {
        let door = Arc::new(Door::new());
        let item = Arc::new(());
        let thread = {
            let (door, item) = (door.clone(), item.clone());
            thread::spawn(move || door.hand_over(item))
        };
        door.close();
        thread.join().unwrap();
        assert_eq!(Arc::strong_count(&item), 1, "it lies there for ever");
    });
}

#[test]
fn a_sender_gets_room_and_a_receiver_mail() {
    model(3, || {
        let mut ends = mailbox::mesh::<u32>(2, 1);
        let (receiver, sender) = (ends.pop().unwrap(), ends.pop().unwrap());
        thread::spawn(move || {
            block_on(async {
                for i in 0..2 {
                    sender.send(1, i).await;
                }
            });
        });
        block_on(async {
            for i in 0..2 {
                assert_eq!(receiver.recv().await, i, "in order");
            }
        });
    });
}

#[test]
fn two_senders_wake_one_receiver() {
    model(2, || {
        let mut ends = mailbox::mesh::<u32>(2, 1);
        let (receiver, sender) = (ends.pop().unwrap(), ends.pop().unwrap());
        let remote = receiver.sender(1);
        let sum = Arc::new(AtomicUsize::new(0));
        thread::spawn(move || block_on(sender.send(1, 1)));
        thread::spawn(move || assert!(remote.try_send(2).is_ok()));
        block_on(async {
            for _ in 0..2 {
                let got = receiver.recv().await as usize;
                sum.fetch_add(got, Ordering::Relaxed);
            }
        });
        assert_eq!(sum.load(Ordering::Relaxed), 3);
    });
}
