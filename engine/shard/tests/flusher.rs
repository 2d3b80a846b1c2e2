//! The way to the disk on the simulated disk: many logs, small journals, logs that are deleted or
//! that fail on the way to their segments, and a start after it.

mod common;

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;

use streamd_io::Env;
use streamd_io::sim::{Sim, SimOptions};
use streamd_log::journal::replay;
use streamd_log::{Log, recover};
use streamd_shard::flusher::Owner;
use streamd_shard::tail_budget::TailBudget;

use common::{DATA, One, append, config, dir, flusher};

const TAIL: usize = 40_000;

fn one(env: &Env, i: usize) -> Rc<One> {
    One::new(Log::new(env, &dir(i), config(), 0), Rc::default())
}

/// Appends to 20 logs; some are deleted meanwhile, and log 0 loses its directory.
async fn load(env: Env, lose: bool) {
    env.create_dir_all(Path::new(DATA)).await.unwrap();
    let tail = TailBudget::new(TAIL);
    let flusher = flusher(&env, tail.clone(), &[]).await;
    let all: Vec<Rc<One>> = (0..20).map(|i| one(&env, i)).collect();
    for round in 0..600 {
        let r = env.random_u64();
        let one = &all[r as usize % all.len()];
        if !one.is_gone() {
            append(&one.log, &vec![7; (r >> 20) as usize % 3000]);
            flusher.kick(one.clone());
        }
        if round % 100 == 50 {
            let gone = &all[10 + round / 100];
            gone.deleted.set(true);
            gone.log.borrow_mut().clear_tail();
        }
        if lose && round == 300 {
            while !all[0].log.borrow().has_dir() {
                env.yield_now().await;
            }
            env.remove_dir_all(&dir(0)).await.unwrap();
        }
        if r.is_multiple_of(3) {
            env.sleep(std::time::Duration::from_micros(r % 300)).await;
        }
    }
    flusher.close().await.unwrap();
    for (i, one) in all.iter().enumerate().filter(|(_, one)| !one.deleted.get()) {
        let log = one.log.borrow();
        if lose && i == 0 {
            let why = one.failed.borrow().clone().expect("log 0 has failed");
            assert!(why.contains("/data/t-0"), "{why}");
            continue;
        }
        assert_eq!(*one.failed.borrow(), None);
        assert!(log.is_settled() && log.flushed() == log.end() && one.told.get() == log.end());
    }
    assert!(tail.used() <= TAIL, "{} bytes in the tails", tail.used());
}

#[test]
fn logs_that_go_do_not_hold_up_the_others() {
    for seed in 0..40 {
        Sim::new(seed, SimOptions::default()).run(|env| load(env, false));
        Sim::new(seed, SimOptions::default()).run(|env| load(env, true));
    }
}

#[test]
fn what_could_not_be_written_back_is_tried_again_at_the_start() {
    let mut sim = Sim::new(3, SimOptions::default());
    let end = Rc::new(Cell::new(0));
    let told = end.clone();
    sim.run(|env| async move {
        env.create_dir_all(Path::new(DATA)).await.unwrap();
        let flusher = flusher(&env, TailBudget::new(TAIL), &[]).await;
        let one = one(&env, 0);
        append(&one.log, &[7; 1000]);
        flusher.kick(one.clone());
        while one.told.get() == 0 {
            env.yield_now().await;
        }
        // What stands in the way of the segment's file.
        let aside = Path::new(DATA).join("aside");
        env.rename(&dir(0), &aside).await.unwrap();
        flusher.close().await.unwrap();
        assert!(one.failed.borrow().is_some());
        env.rename(&aside, &dir(0)).await.unwrap();
        told.set(one.told.get());
    });
    sim.run(|env| async move {
        let replayed = replay::replay(&env, Path::new(DATA), |_| true, |_| true).await;
        assert!(replayed.unwrap().bytes > 1000);
        let opened = recover::open(&env, &dir(0), config(), 0, &mut |_, _| {}).await;
        assert_eq!(opened.unwrap().log.flushed(), end.get());
    });
}
