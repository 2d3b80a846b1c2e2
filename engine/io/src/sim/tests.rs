//! Tests of what only the simulator has: repetition, crashes, faults.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use super::{DiskOp, Fault, Sim, SimOptions};
use crate::{BLOCK, Class, Env, OpenOptions};

fn dir() -> PathBuf {
    PathBuf::from("/data")
}

fn durable() -> OpenOptions {
    OpenOptions::new().create().direct().durable()
}

async fn start(env: &Env) {
    env.create_dir_all(&dir()).await.unwrap();
    env.sync_dir(Path::new("/")).await.unwrap();
}

/// A small workload with everything in it.
async fn busy(env: Env) -> u64 {
    start(&env).await;
    let file = Rc::new(env.open(&dir().join("log"), &durable()).await.unwrap());
    env.sync_dir(&dir()).await.unwrap();
    let mut tasks = Vec::new();
    for i in 0..5u64 {
        let (env2, file) = (env.clone(), file.clone());
        tasks.push(env.spawn(Class::Latency, async move {
            for n in 0..5 {
                let mut buf = env2.alloc(BLOCK);
                buf.fill(i as u8 + 1);
                file.write_at(buf, (i * 5 + n) * BLOCK as u64)
                    .await
                    .unwrap();
                let pause = env2.random_u64() % 1000;
                env2.sleep(Duration::from_micros(pause)).await;
                env2.yield_if_needed().await;
            }
            i
        }));
    }
    let mut sum = 0;
    for task in tasks {
        sum += task.await;
    }
    sum + env.now().0
}

#[test]
fn a_seed_repeats_its_run() {
    let run = |seed| {
        let mut sim = Sim::new(seed, SimOptions::default());
        let crashed = sim.run_until_crash(busy).is_none();
        sim.power_cut();
        let result = sim.run(busy);
        (sim.trace_hash(), result, crashed)
    };
    let mut hashes = Vec::new();
    for seed in 0..50 {
        let (one, two) = (run(seed), run(seed));
        assert_eq!(one, two, "seed {seed}");
        hashes.push(one.0);
    }
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 50, "seeds differ");
}

#[test]
fn ten_thousand_crashes_lose_nothing_that_was_durable() {
    let (mut crashed, mut lost, mut kept, mut torn) = (0, 0, 0, 0);
    for seed in 0..10_000 {
        let options = SimOptions {
            crash_turns: 1..200,
            ..SimOptions::default()
        };
        let mut sim = Sim::new(seed, options);
        // How many blocks were acknowledged, as a client would remember it.
        let acked = Rc::new(std::cell::Cell::new(0u64));
        let seen = acked.clone();
        let result = sim.run_until_crash(|env| async move {
            start(&env).await;
            let file = env.open(&dir().join("log"), &durable()).await.unwrap();
            env.sync_dir(&dir()).await.unwrap();
            for n in 0..10u64 {
                let mut buf = env.alloc(2 * BLOCK);
                buf.fill(n as u8 + 1);
                file.write_at(buf, n * 2 * BLOCK as u64).await.unwrap();
                seen.set(n + 1);
            }
        });
        crashed += u32::from(result.is_none());
        sim.power_cut();
        let all = sim.disk().read(&dir().join("log")).unwrap_or_default();
        for n in 0..acked.get() {
            let at = n as usize * 2 * BLOCK;
            let block = &all[at..at + 2 * BLOCK];
            assert!(
                block.iter().all(|&b| b == n as u8 + 1),
                "seed {seed}: block {n} is gone"
            );
        }
        // What was in flight: not there, there, or torn at sectors.
        let rest = &all[(acked.get() as usize * 2 * BLOCK).min(all.len())..];
        let written: Vec<bool> = rest.chunks(512).map(|s| s[0] != 0).collect();
        for sector in rest.chunks(512) {
            assert!(
                sector.iter().all(|&b| b == sector[0]),
                "seed {seed}: a sector is torn"
            );
        }
        match (written.contains(&true), written.contains(&false)) {
            (true, true) => torn += 1,
            (true, false) => kept += 1,
            _ => lost += 1,
        }
    }
    // Every kind of fate occurs.
    assert!(
        crashed > 2_000 && lost > 500 && kept > 100 && torn > 100,
        "{crashed} {lost} {kept} {torn}"
    );
}

#[test]
fn unsynced_bytes_names_and_lengths_may_be_lost_and_synced_ones_not() {
    let mut fates = [[0u32; 2]; 5];
    for seed in 0..500 {
        let mut sim = Sim::new(seed, SimOptions::default());
        sim.run(|env| async move {
            start(&env).await;
            let plain = OpenOptions::new().create();
            let synced = env.open(&dir().join("synced"), &plain).await.unwrap();
            synced.write_plain(vec![1; 5000], 0).await.unwrap();
            synced.sync().await.unwrap();
            env.write_file_atomic(&dir().join("state"), b"old".to_vec())
                .await
                .unwrap();
            env.sync_dir(&dir()).await.unwrap();
            // From here on nothing is synced.
            synced.write_plain(vec![2; 512], 0).await.unwrap();
            synced.truncate(600).await.unwrap();
            let file = env.open(&dir().join("new"), &durable()).await.unwrap();
            file.write_at(env.alloc(BLOCK), 0).await.unwrap();
            env.rename(&dir().join("state"), &dir().join("moved"))
                .await
                .unwrap();
            env.remove_file(&dir().join("new")).await.unwrap();
            // Programs see all of it.
            let names = env.list_dir(&dir()).await.unwrap();
            assert_eq!(names.len(), 2, "{names:?}");
            assert_eq!(synced.read_at(0, 10_000).await.unwrap().len(), 600);
        });
        sim.power_cut();
        let disk = sim.disk();
        let synced = disk
            .read(&dir().join("synced"))
            .expect("its name was durable");
        assert!(
            synced.len() == 5000 || synced.len() == 600,
            "{}",
            synced.len()
        );
        assert!(synced[512..600].iter().all(|&b| b == 1));
        fates[0][usize::from(synced.len() == 600)] += 1;
        fates[1][usize::from(synced[0] == 2)] += 1;
        fates[2][usize::from(disk.read(&dir().join("new")).is_some())] += 1;
        let (old, moved) = (
            disk.read(&dir().join("state")),
            disk.read(&dir().join("moved")),
        );
        assert!(old.is_some() != moved.is_some(), "a rename is atomic");
        assert_eq!(old.or(moved.clone()).unwrap(), b"old");
        fates[3][usize::from(moved.is_some())] += 1;
        // The journal keeps its order: the rename came after the new name.
        if disk.read(&dir().join("new")).is_none() && moved.is_none() {
            fates[4][0] += 1;
        } else {
            fates[4][1] += 1;
        }
    }
    for (i, fate) in fates.iter().enumerate() {
        assert!(fate[0] > 20 && fate[1] > 20, "{i}: {fates:?}");
    }
}

#[test]
fn an_atomic_file_is_old_or_new_after_any_crash() {
    let (mut old, mut new) = (0, 0);
    for seed in 0..2_000 {
        let options = SimOptions {
            crash_turns: 1..60,
            ..SimOptions::default()
        };
        let mut sim = Sim::new(seed, options);
        sim.run(|env| async move {
            start(&env).await;
            env.write_file_atomic(&dir().join("s"), vec![1; 9000])
                .await
                .unwrap();
        });
        let result = sim.run_until_crash(|env| async move {
            env.write_file_atomic(&dir().join("s"), vec![2; 7000])
                .await
                .unwrap();
        });
        sim.power_cut();
        let content = sim.disk().read(&dir().join("s")).expect("it is never gone");
        if content == vec![2; 7000] {
            new += 1;
        } else {
            assert!(
                result.is_none(),
                "seed {seed}: what was acknowledged is gone"
            );
            assert_eq!(content, vec![1; 9000], "seed {seed}");
            old += 1;
        }
    }
    assert!(old > 100 && new > 100, "{old} {new}");
}

#[test]
fn kill_without_power_cut_keeps_what_programs_saw() {
    let mut sim = Sim::new(3, SimOptions::default());
    let result: Option<()> = sim.run_turns(2_000, |env| async move {
        start(&env).await;
        let file = env
            .open(&dir().join("f"), &OpenOptions::new().create())
            .await
            .unwrap();
        file.write_plain(b"seen".to_vec(), 0).await.unwrap();
        loop {
            env.sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(result.is_none());
    assert_eq!(sim.disk().read(&dir().join("f")).unwrap(), b"seen");
}

#[test]
fn zero_fill_is_durable_with_its_length() {
    for seed in 0..200 {
        let mut sim = Sim::new(seed, SimOptions::default());
        sim.run(|env| async move {
            start(&env).await;
            let file = env.open(&dir().join("seg"), &durable()).await.unwrap();
            env.sync_dir(&dir()).await.unwrap();
            file.write_plain(vec![9; 2 * BLOCK], 0).await.unwrap();
            file.zero_fill(0, 64 << 20).await.unwrap();
        });
        sim.power_cut();
        let all = sim.disk().read(&dir().join("seg")).unwrap();
        assert!(all.len() == 64 << 20 && all[..3 * BLOCK].iter().all(|&b| b == 0));
    }
}

#[test]
fn a_truncation_before_a_durable_write_is_durable_with_it() {
    for seed in 0..300 {
        let mut sim = Sim::new(seed, SimOptions::default());
        sim.run(|env| async move {
            start(&env).await;
            let file = env.open(&dir().join("f"), &durable()).await.unwrap();
            env.sync_dir(&dir()).await.unwrap();
            let mut buf = env.alloc(4 * BLOCK);
            buf.fill(1);
            file.write_at(buf, 0).await.unwrap();
            file.truncate(BLOCK as u64).await.unwrap();
            let mut buf = env.alloc(BLOCK);
            buf.fill(2);
            file.write_at(buf, 3 * BLOCK as u64).await.unwrap();
        });
        sim.power_cut();
        let all = sim.disk().read(&dir().join("f")).unwrap();
        assert_eq!(all.len(), 4 * BLOCK);
        assert!(
            all[BLOCK..3 * BLOCK].iter().all(|&b| b == 0),
            "what was cut off came back"
        );
    }
}

#[test]
fn faults_on_demand() {
    let mut sim = Sim::new(1, SimOptions::default());
    sim.run(|env| async move {
        start(&env).await;
        env.write_file_atomic(&dir().join("f"), vec![0; 1000])
            .await
            .unwrap();
    });
    sim.disk().flip(&dir().join("f"), 77);
    sim.power_cut();
    let bytes = sim.run(|env| async move { env.read_file(&dir().join("f"), 5000).await.unwrap() });
    assert_eq!(bytes.iter().filter(|&&b| b != 0).count(), 1);
    assert_ne!(bytes[77], 0);

    sim.disk().set_capacity(Some(100_000));
    let kind = sim.run(|env| async move {
        let file = env.open(&dir().join("g"), &durable()).await.unwrap();
        let space = env.disk_space(&dir()).await.unwrap();
        assert_eq!(space.total, 100_000);
        file.write_at(env.alloc(8 * BLOCK), 0).await.unwrap();
        let after = env.disk_space(&dir()).await.unwrap();
        assert_eq!(space.free - after.free, 8 * BLOCK as u64);
        file.zero_fill(0, 1 << 20).await.unwrap_err().kind()
    });
    assert_eq!(kind, std::io::ErrorKind::StorageFull);

    sim.disk().set_eio(500_000);
    let failed = sim.run(|env| async move {
        let mut failed = 0;
        for _ in 0..100 {
            match env.read_file(&dir().join("f"), 5000).await {
                Ok(_) => {}
                Err(e) => {
                    assert_eq!(e.raw_os_error(), Some(libc::EIO));
                    failed += 1;
                }
            }
        }
        failed
    });
    assert!((50..100).contains(&failed), "{failed}");
}

#[test]
fn faults_strike_the_files_and_operations_that_they_name() {
    let (mut whole, mut part, mut none, mut lost) = (0, 0, 0, 0);
    for seed in 0..200 {
        let mut sim = Sim::new(seed, SimOptions::default());
        let disk = sim.disk();
        sim.run(move |env| async move {
            env.create_dir_all(&dir()).await.unwrap();
            env.sync_dir(&dir()).await.unwrap();
            for name in ["bad", "good"] {
                let file = env.open(&dir().join(name), &durable()).await.unwrap();
                file.zero_fill(0, 4 * BLOCK as u64).await.unwrap();
            }
            env.sync_dir(&dir()).await.unwrap();
            disk.set_faults(vec![Fault::eio("/bad", DiskOp::Write)]);
            for (name, fails) in [("bad", true), ("good", false)] {
                let file = env.open(&dir().join(name), &durable()).await.unwrap();
                let mut buf = env.alloc(2 * BLOCK);
                buf.fill(7);
                assert_eq!(file.write_at(buf, 0).await.is_err(), fails);
                file.read_at(0, 10).await.unwrap();
            }
            disk.set_faults(vec![Fault::eio("/bad", DiskOp::Sync)]);
            let options = OpenOptions::new().write();
            let file = env.open(&dir().join("bad"), &options).await.unwrap();
            file.write_plain(vec![9; 10], 3 * BLOCK as u64)
                .await
                .unwrap();
            file.sync().await.unwrap_err();
            disk.set_faults(Vec::new());
            file.sync().await.unwrap();
        });
        sim.power_cut();
        let bytes = sim.disk().read(&dir().join("bad")).unwrap();
        match bytes[..2 * BLOCK].iter().filter(|&&b| b == 7).count() {
            0 => none += 1,
            n if n == 2 * BLOCK => whole += 1,
            _ => part += 1,
        }
        lost += usize::from(bytes[3 * BLOCK] == 0);
    }
    let all = [whole, part, none, lost];
    assert!(all.iter().all(|n| *n > 4), "{all:?}");
}

#[test]
#[should_panic(expected = "sim seed 0x2a: nothing can go on")]
fn a_deadlock_panics_with_the_seed() {
    Sim::new(42, SimOptions::default()).run(|_| std::future::pending::<()>());
}

#[test]
#[should_panic(expected = "sim seed 0x7: no end after 1000 turns")]
fn a_live_lock_panics_with_the_seed() {
    let options = SimOptions {
        turns_max: 1000,
        ..SimOptions::default()
    };
    Sim::new(7, options).run(|env| async move {
        loop {
            env.yield_now().await;
        }
    });
}

#[test]
fn time_passes_in_no_time() {
    let mut sim = Sim::new(5, SimOptions::default());
    let real = std::time::Instant::now();
    let (wall, mono) = sim.run(|env| async move {
        let (wall, mono) = (env.wall_ms(), env.now());
        env.sleep(Duration::from_secs(365 * 86_400)).await;
        (env.wall_ms() - wall, env.now() - mono)
    });
    assert!(real.elapsed() < Duration::from_secs(5));
    assert!(wall >= 365 * 86_400_000 && mono >= Duration::from_secs(365 * 86_400));
}

#[test]
fn what_a_process_had_under_way_is_over_before_the_next_begins() {
    let mut happened = 0;
    for seed in 0..200 {
        let mut sim = Sim::new(seed, SimOptions::default());
        sim.run(|env| async move {
            start(&env).await;
            let file = env.open(&dir().join("f"), &durable()).await.unwrap();
            file.zero_fill(0, BLOCK as u64).await.unwrap();
            env.sync_dir(&dir()).await.unwrap();
            // It ends in the middle of it.
            let write = file.write_plain(vec![1; BLOCK], 0);
            assert!(futures_lite::future::poll_once(write).await.is_none());
        });
        happened += u32::from(sim.disk().read(&dir().join("f")).unwrap()[0]);
        sim.run(|env| async move {
            let file = env.open(&dir().join("f"), &durable()).await.unwrap();
            file.write_plain(vec![2; BLOCK], 0).await.unwrap();
        });
        sim.power_cut();
        let found = sim.disk().read(&dir().join("f")).unwrap();
        assert!(found == [2; BLOCK], "seed {seed}: the older one came later");
    }
    assert!((20..180).contains(&happened), "{happened}");
}

#[test]
fn each_shard_hears_of_what_a_sync_of_everything_has_lost() {
    let mut sim = Sim::new(1, SimOptions::default());
    let disk = sim.disk();
    sim.run(move |env| async move {
        env.create_dir_all(&dir()).await.unwrap();
        let [a, b] = [
            env.file_system(&dir()).await.unwrap(),
            env.file_system(&dir()).await.unwrap(),
        ];
        disk.set_faults(vec![Fault::eio("", DiskOp::Sync)]);
        a.sync().await.unwrap_err();
        disk.set_faults(Vec::new());
        let c = env.file_system(&dir()).await.unwrap();
        b.sync()
            .await
            .expect_err("what it wrote may be lost as well");
        for all in [a, b, c] {
            all.sync().await.expect("each is told once");
        }
    });
}
