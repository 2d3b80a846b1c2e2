//! One suite for both arms: every case runs on the kernel and in the simulator, so that the fake
//! cannot drift from the real thing.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::local::{Budget, Canceled, Notify, oneshot};
use crate::{Class, Env, RuntimeOptions, sim};

/// Makes a kernel test and a simulator test (over a few seeds) of one case.
macro_rules! conformance {
    ($($name:ident,)*) => {
        mod kernel {
            $(#[test] fn $name() { crate::conformance::on_kernel(super::$name); })*
        }
        mod simulated {
            $(#[test] fn $name() { crate::conformance::on_sim(super::$name); })*
        }
    };
}

mod files;
mod streams;

conformance! {
    tasks_give_results_and_can_be_canceled,
    a_spawned_task_never_runs_inside_spawn,
    sleeps_last_and_are_in_order,
    yields_let_others_run,
    mailboxes_keep_order_and_wait_for_room,
    budgets,
    one_shots,
    notifications,
}

fn on_kernel<F, Fut>(case: F)
where
    F: FnOnce(Env, PathBuf) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let dir = test_dir();
    let path = dir.path().to_owned();
    let options = RuntimeOptions {
        cores: vec![],
        data_dir: Some(path.clone()),
        ..RuntimeOptions::default()
    };
    crate::run(options, move |env| case(env, path)).unwrap();
}

/// A directory on a file system with direct I/O: below the build's own.
pub(crate) fn test_dir() -> tempfile::TempDir {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/io-tests");
    std::fs::create_dir_all(&base).unwrap();
    tempfile::tempdir_in(base).unwrap()
}

fn on_sim<F, Fut>(case: F)
where
    F: Fn(Env, PathBuf) -> Fut + Copy + 'static,
    Fut: Future<Output = ()> + 'static,
{
    for seed in 0..20 {
        let mut sim = sim::Sim::new(seed, sim::SimOptions::default());
        sim.run(|env| async move {
            let dir = PathBuf::from("/data");
            env.create_dir_all(&dir).await.unwrap();
            case(env, dir).await;
        });
    }
}

fn pattern(len: usize, salt: u8) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8 ^ salt).collect()
}

async fn tasks_give_results_and_can_be_canceled(env: Env, _dir: PathBuf) {
    let task = env.spawn(Class::Background, async { 7 });
    assert_eq!(task.await, 7);

    let dropped = Rc::new(Cell::new(false));
    struct Mark(Rc<Cell<bool>>);
    impl Drop for Mark {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
    let mark = Mark(dropped.clone());
    let e = env.clone();
    let task = env.spawn(Class::Latency, async move {
        let _mark = mark;
        e.sleep(Duration::from_secs(3600)).await;
    });
    env.sleep(Duration::from_millis(1)).await;
    assert!(!task.is_finished() && !dropped.get());
    drop(task);
    env.sleep(Duration::from_millis(1)).await;
    assert!(dropped.get(), "a dropped task drops its future");

    let ran = Rc::new(Cell::new(0));
    let (r, e) = (ran.clone(), env.clone());
    env.spawn(Class::Latency, async move {
        e.yield_now().await;
        r.set(1);
    })
    .detach();
    while ran.get() == 0 {
        env.yield_now().await;
    }
}

async fn a_spawned_task_never_runs_inside_spawn(env: Env, _dir: PathBuf) {
    let cell = Rc::new(RefCell::new(0));
    let held = cell.borrow_mut();
    let c = cell.clone();
    let task = env.spawn(Class::Latency, async move { *c.borrow_mut() += 1 });
    drop(held);
    task.await;
    assert_eq!(*cell.borrow(), 1);
}

/// Counts its drops.
struct Mark(Arc<AtomicU32>);

impl Drop for Mark {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Leaves behind a task that never ran, one that sleeps, and one that waits for another.
async fn leave_tasks_behind(env: Env, drops: Arc<AtomicU32>) {
    let mark = || Mark(drops.clone());
    let (e, outer, inner) = (env.clone(), mark(), mark());
    let waits = async move {
        let _outer = outer;
        let never = async move {
            let _inner = inner;
            std::future::pending::<()>().await;
        };
        e.spawn(Class::Background, never).await;
    };
    env.spawn(Class::Latency, waits).detach();
    let (e, sleeper) = (env.clone(), mark());
    let sleeps = async move {
        let _sleeper = sleeper;
        e.sleep(Duration::from_secs(3600)).await;
    };
    env.spawn(Class::Latency, sleeps).detach();
    env.sleep(Duration::from_millis(1)).await;
    let new = mark();
    env.spawn(Class::Latency, async move { drop(new) }).detach();
}

#[test]
fn tasks_are_dropped_when_main_ends() {
    let drops = Arc::new(AtomicU32::new(0));
    let (d, cores) = (drops.clone(), vec![]);
    let options = RuntimeOptions {
        cores,
        ..RuntimeOptions::default()
    };
    crate::run(options, move |env| leave_tasks_behind(env, d)).unwrap();
    assert_eq!(drops.swap(0, Ordering::Relaxed), 4);

    let mut sim = sim::Sim::new(1, sim::SimOptions::default());
    let d = drops.clone();
    sim.run(move |env| leave_tasks_behind(env, d));
    assert_eq!(drops.load(Ordering::Relaxed), 4);
}

async fn sleeps_last_and_are_in_order(env: Env, _dir: PathBuf) {
    let start = env.now();
    env.sleep(Duration::from_millis(5)).await;
    let first = env.now() - start;
    assert!(first >= Duration::from_millis(5), "{first:?}");
    let order = Rc::new(RefCell::new(vec![]));
    let tasks: Vec<_> = [30u64, 10, 20]
        .map(|ms| {
            let (env2, order) = (env.clone(), order.clone());
            env.spawn(Class::Latency, async move {
                env2.sleep(Duration::from_millis(ms)).await;
                order.borrow_mut().push(ms);
            })
        })
        .into();
    for task in tasks {
        task.await;
    }
    assert_eq!(*order.borrow(), [10, 20, 30]);
    assert!(env.wall_ms() > 1_600_000_000_000);
    assert_ne!(env.random_u64(), env.random_u64());
}

async fn yields_let_others_run(env: Env, _dir: PathBuf) {
    let turns = Rc::new(Cell::new(0));
    let (t, e) = (turns.clone(), env.clone());
    let other = env.spawn(Class::Latency, async move {
        loop {
            t.set(t.get() + 1);
            e.yield_now().await;
        }
    });
    for _ in 0..200 {
        env.yield_now().await;
    }
    assert!(turns.get() >= 20, "{}", turns.get());
    drop(other);
}

async fn mailboxes_keep_order_and_wait_for_room(env: Env, _dir: PathBuf) {
    let mut ends = crate::mailbox::mesh::<(usize, u32)>(2, 4);
    let (b, a) = (Rc::new(ends.pop().unwrap()), Rc::new(ends.pop().unwrap()));
    let mut senders = Vec::new();
    // Two tasks of one endpoint: their messages keep the order in which they were sent.
    let next = Rc::new(Cell::new(0));
    for _ in 0..2 {
        let (a, next, e) = (a.clone(), next.clone(), env.clone());
        senders.push(env.spawn(Class::Latency, async move {
            for _ in 0..500 {
                let n = next.get();
                next.set(n + 1);
                a.send(1, (0, n)).await;
                e.yield_if_needed().await;
            }
        }));
    }
    let b2 = b.clone();
    let own = env.spawn(Class::Latency, async move {
        for n in 0..100 {
            b2.send(1, (1, n)).await;
        }
    });
    let mut want = [0, 0];
    for i in 0..1100 {
        let (from, n) = b.recv().await;
        assert_eq!(n, want[from], "message {i}");
        want[from] += 1;
        if i % 50 == 0 {
            env.sleep(Duration::from_millis(1)).await;
        }
    }
    for s in senders {
        s.await;
    }
    own.await;
    assert!(b.try_recv().is_none());
    for n in 0..4 {
        assert!(a.try_send(1, (0, n)).is_ok());
    }
    assert_eq!(a.try_send(1, (0, 4)), Err((0, 4)), "full");
    // A canceled sender leaves the line to the next one.
    let first = a.send(1, (0, 5));
    {
        let mut first = pin!(first);
        let polled = futures_lite::future::poll_once(first.as_mut()).await;
        assert!(polled.is_none());
        assert_eq!(a.try_send(1, (0, 6)), Err((0, 6)), "others wait");
    }
    while b.try_recv().is_some() {}
    a.send(1, (0, 7)).await;
    assert_eq!(b.recv().await, (0, 7));
    let remote = a.sender(1);
    remote.send_blocking((9, 9));
    assert_eq!(b.recv().await, (9, 9));
}

async fn budgets(env: Env, _dir: PathBuf) {
    let budget = Budget::new(100);
    let mut a = budget.acquire(60).await;
    assert!(budget.try_acquire(50).is_none());
    let order = Rc::new(RefCell::new(vec![]));
    let mut tasks = Vec::new();
    for bytes in [500usize, 10, 90] {
        let (b, order) = (budget.clone(), order.clone());
        tasks.push(env.spawn(Class::Latency, async move {
            let permit = b.acquire(bytes).await;
            order.borrow_mut().push(permit.bytes());
        }));
        while budget.waiting() < tasks.len() {
            env.yield_now().await;
        }
    }
    assert!(budget.try_acquire(1).is_none(), "those who wait go first");
    a.shrink(10);
    assert_eq!(budget.used(), 10);
    // One that waits and gives up.
    drop(tasks.remove(1));
    env.sleep(Duration::from_millis(2)).await;
    assert_eq!(budget.waiting(), 2);
    drop(a);
    for task in tasks {
        task.await;
    }
    assert_eq!(*order.borrow(), [500, 90], "the large one is not starved");
    assert_eq!(budget.used(), 0);
}

async fn one_shots(env: Env, _dir: PathBuf) {
    let (tx, rx) = oneshot();
    let task = env.spawn(Class::Latency, rx);
    env.yield_now().await;
    tx.send(5).unwrap();
    assert_eq!(task.await, Ok(5));
    let (tx, rx) = oneshot::<u8>();
    drop(tx);
    assert_eq!(rx.await, Err(Canceled));
    let (tx, rx) = oneshot();
    drop(rx);
    assert!(tx.is_closed());
    assert_eq!(tx.send(1), Err(1));
}

async fn notifications(env: Env, _dir: PathBuf) {
    let notify = Notify::new();
    let early = notify.wait();
    let count = Rc::new(Cell::new(0));
    for _ in 0..10 {
        let (n, count) = (notify.clone(), count.clone());
        env.spawn(Class::Latency, async move {
            n.wait().await;
            count.set(count.get() + 1);
        })
        .detach();
    }
    env.sleep(Duration::from_millis(2)).await;
    assert_eq!(count.get(), 0);
    notify.notify_all();
    early.await;
    env.sleep(Duration::from_millis(2)).await;
    assert_eq!(count.get(), 10);
    let late = notify.wait();
    assert!(futures_lite::future::poll_once(late).await.is_none());
}
