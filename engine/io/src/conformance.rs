//! One suite for both arms: every case runs on the kernel and in the simulator, so that the fake
//! cannot drift from the real thing.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use crate::local::{Budget, Canceled, Notify, oneshot};
use crate::{BLOCK, Bytes, Class, Env, OpenOptions, Part, RuntimeOptions, sim};

/// Makes a kernel test and a simulator test (over a few seeds) of one case.
macro_rules! conformance {
    ($($name:ident,)*) => {
        mod kernel {
            $(#[test] fn $name() { super::on_kernel(super::$name); })*
        }
        mod simulated {
            $(#[test] fn $name() { super::on_sim(super::$name); })*
        }
    };
}

conformance! {
    tasks_give_results_and_can_be_canceled,
    a_spawned_task_never_runs_inside_spawn,
    tasks_are_dropped_when_main_ends,
    sleeps_last_and_are_in_order,
    yields_let_others_run,
    direct_durable_writes_read_back,
    reads_of_any_alignment,
    buffered_files,
    positions_must_be_aligned,
    truncate_and_size,
    zero_fill_grows_and_clears,
    opening_what_is_not_there,
    names,
    atomic_files,
    whole_files_have_a_limit,
    space,
    mailboxes_keep_order_and_wait_for_room,
    budgets,
    one_shots,
    notifications,
    streams_carry_everything_in_order,
    file_parts_are_sent,
    a_short_file_part_is_an_error,
    a_closed_peer_is_seen,
    a_refused_connection,
    many_connections,
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

const DIRECT: OpenOptions = OpenOptions {
    read: true,
    write: true,
    create: true,
    direct: true,
    durable: true,
};

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

async fn tasks_are_dropped_when_main_ends(env: Env, _dir: PathBuf) {
    // The test is the end of this run: a file, a timer and a connection are pending in tasks that
    // refer to each other. The simulator and the kernel arm drop them all; a leak would keep the
    // listener's port, which the next lines of another run could not tell. Here: no panic.
    let e = env.clone();
    env.spawn(Class::Latency, async move {
        let task = e.spawn(Class::Background, std::future::pending::<()>());
        task.await;
    })
    .detach();
    env.yield_now().await;
    assert!(env.stats().tasks >= 2);
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

async fn direct_durable_writes_read_back(env: Env, dir: PathBuf) {
    let path = dir.join("a.log");
    let file = env.open(&path, &DIRECT).await.unwrap();
    let mut buf = env.alloc(3 * BLOCK);
    assert_eq!(buf.len(), 3 * BLOCK);
    buf.copy_from_slice(&pattern(3 * BLOCK, 1));
    let frozen = file.write_at(buf, BLOCK as u64).await.unwrap();
    assert_eq!(frozen[..], pattern(3 * BLOCK, 1)[..]);
    assert_eq!(file.size().await.unwrap(), 4 * BLOCK as u64);
    let back = file.read_at(0, 10 * BLOCK).await.unwrap();
    assert_eq!(back.len(), 4 * BLOCK);
    assert!(back[..BLOCK].iter().all(|&b| b == 0));
    assert_eq!(back[BLOCK..], pattern(3 * BLOCK, 1)[..]);

    // Many in flight at once, and one that rewrites a block.
    let writes: Vec<_> = (0..16u8).collect();
    let file = Rc::new(file);
    let mut tasks = Vec::new();
    for i in writes {
        let (e, f) = (env.clone(), file.clone());
        tasks.push(env.spawn(Class::Latency, async move {
            let mut buf = e.alloc(BLOCK);
            buf.fill(i);
            f.write_at(buf, u64::from(i) * BLOCK as u64).await.unwrap();
        }));
    }
    for task in tasks {
        task.await;
    }
    let back = file.read_at(0, 16 * BLOCK).await.unwrap();
    for (i, block) in back.chunks(BLOCK).enumerate() {
        assert!(block.iter().all(|&b| b == i as u8));
    }
    let file = Rc::try_unwrap(file).ok().unwrap();
    file.close().await.unwrap();
}

async fn reads_of_any_alignment(env: Env, dir: PathBuf) {
    let all = pattern(5 * BLOCK, 9);
    let path = dir.join("r");
    let file = env.open(&path, &DIRECT).await.unwrap();
    let mut buf = env.alloc(all.len());
    buf.copy_from_slice(&all);
    file.write_at(buf, 0).await.unwrap();
    file.truncate(all.len() as u64 - 100).await.unwrap();
    let end = all.len() - 100;
    let plain = env.open(&path, &OpenOptions::new()).await.unwrap();
    for (pos, len) in [
        (0, 1),
        (1, 1),
        (4095, 2),
        (4096, 4096),
        (5000, 12_000),
        (end - 1, 1),
        (end - 1, 500),
        (end, 10),
        (end + 5000, 10),
        (0, 1 << 30),
        (77, 0),
    ] {
        let want = &all[pos.min(end)..(pos + len).min(end).max(pos.min(end))];
        for f in [&file, &plain] {
            let got = f.read_at(pos as u64, len).await.unwrap();
            assert_eq!(got[..], *want, "{len} bytes at {pos}");
        }
    }
}

async fn buffered_files(env: Env, dir: PathBuf) {
    let path = dir.join("b");
    let file = env.open(&path, &OpenOptions::new().create()).await.unwrap();
    file.write_plain(b"hello world".to_vec(), 0).await.unwrap();
    file.write_plain(b"W".to_vec(), 6).await.unwrap();
    file.sync().await.unwrap();
    assert_eq!(file.read_at(0, 100).await.unwrap()[..], b"hello World"[..]);
    let mut buf = env.alloc(BLOCK);
    buf.fill(3);
    let frozen = file.write_at(buf, BLOCK as u64).await.unwrap();
    assert_eq!(file.read_at(BLOCK as u64, BLOCK).await.unwrap(), frozen);
    assert_eq!(file.size().await.unwrap(), 2 * BLOCK as u64);
    // Rename: the open file goes on under its new name.
    let to = dir.join("b2");
    env.rename(&path, &to).await.unwrap();
    assert_eq!(file.size().await.unwrap(), 2 * BLOCK as u64);
    file.write_plain(b"J".to_vec(), 0).await.unwrap();
    file.close().await.unwrap();
    assert_eq!(
        env.read_file(&to, 1 << 20).await.unwrap()[..5],
        b"Jello"[..]
    );
}

async fn positions_must_be_aligned(env: Env, dir: PathBuf) {
    let file = env.open(&dir.join("x"), &DIRECT).await.unwrap();
    let e = file.write_at(env.alloc(1), 100).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidInput);
    let e = file.zero_fill(0, 100).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidInput);
}

async fn truncate_and_size(env: Env, dir: PathBuf) {
    let file = env.open(&dir.join("t"), &DIRECT).await.unwrap();
    let mut buf = env.alloc(2 * BLOCK);
    buf.fill(8);
    file.write_at(buf, 0).await.unwrap();
    file.truncate(5000).await.unwrap();
    assert_eq!(file.size().await.unwrap(), 5000);
    file.truncate(10_000).await.unwrap();
    file.sync().await.unwrap();
    let back = file.read_at(0, 20_000).await.unwrap();
    assert_eq!(back.len(), 10_000);
    assert!(back[..5000].iter().all(|&b| b == 8));
    assert!(
        back[5000..].iter().all(|&b| b == 0),
        "what was cut off reads as zeros"
    );
}

async fn zero_fill_grows_and_clears(env: Env, dir: PathBuf) {
    let file = env.open(&dir.join("z"), &DIRECT).await.unwrap();
    let mut buf = env.alloc(4 * BLOCK);
    buf.fill(0xff);
    file.write_at(buf, 0).await.unwrap();
    file.zero_fill(BLOCK as u64, 600 * BLOCK as u64)
        .await
        .unwrap();
    assert_eq!(file.size().await.unwrap(), 601 * BLOCK as u64);
    let back = file.read_at(0, 1 << 24).await.unwrap();
    assert!(back[..BLOCK].iter().all(|&b| b == 0xff));
    assert!(back[BLOCK..].iter().all(|&b| b == 0));
    assert_eq!(back.len(), 601 * BLOCK);
    file.zero_fill(0, 0).await.unwrap();
}

async fn opening_what_is_not_there(env: Env, dir: PathBuf) {
    let missing = dir.join("missing");
    let read = OpenOptions::new();
    for options in [
        read,
        read.direct(),
        read.write(),
        read.write().direct().durable(),
    ] {
        let e = env.open(&missing, &options).await.err().unwrap();
        assert_eq!(e.kind(), ErrorKind::NotFound, "{options:?}");
    }
    let e = env.open(&missing.join("x"), &DIRECT).await.err().unwrap();
    assert_eq!(e.kind(), ErrorKind::NotFound);
    assert_eq!(
        env.remove_file(&missing).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(
        env.list_dir(&missing).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(
        env.rename(&missing, &dir.join("y"))
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::NotFound
    );
    let file = env.open(&dir.join("w"), &read.create()).await.unwrap();
    drop(file);
    let file = env.open(&dir.join("w"), &read).await.unwrap();
    assert!(
        file.write_plain(vec![1], 0).await.is_err(),
        "opened for reading only"
    );
}

async fn names(env: Env, dir: PathBuf) {
    let deep = dir.join("a/b/c");
    env.create_dir_all(&deep).await.unwrap();
    env.create_dir_all(&deep).await.unwrap();
    for name in ["2", "10", "1"] {
        let file = env
            .open(&deep.join(name), &OpenOptions::new().create())
            .await
            .unwrap();
        file.write_plain(vec![0; name.len()], 0).await.unwrap();
    }
    env.create_dir_all(&deep.join("sub")).await.unwrap();
    env.sync_dir(&deep).await.unwrap();
    let list: Vec<_> = env.list_dir(&deep).await.unwrap();
    let got: Vec<_> = list
        .iter()
        .map(|e| (e.name.as_str(), e.is_dir, e.len))
        .collect();
    assert_eq!(
        got,
        [
            ("1", false, 1),
            ("10", false, 2),
            ("2", false, 1),
            ("sub", true, 0)
        ]
    );
    env.rename(&deep.join("1"), &deep.join("2")).await.unwrap();
    env.remove_file(&deep.join("10")).await.unwrap();
    env.rename(&deep, &dir.join("a/moved")).await.unwrap();
    let list = env.list_dir(&dir.join("a/moved")).await.unwrap();
    let got: Vec<_> = list.iter().map(|e| e.name.as_str()).collect();
    assert_eq!(got, ["2", "sub"]);
    env.remove_dir_all(&dir.join("a")).await.unwrap();
    assert_eq!(
        env.list_dir(&deep).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

async fn atomic_files(env: Env, dir: PathBuf) {
    let path = dir.join("state");
    env.write_file_atomic(&path, b"one, and long".to_vec())
        .await
        .unwrap();
    env.write_file_atomic(&path, b"two".to_vec()).await.unwrap();
    assert_eq!(env.read_file(&path, 100).await.unwrap(), b"two");
    let names = env.list_dir(&dir).await.unwrap();
    assert!(!names.iter().any(|e| e.name.ends_with(".tmp")), "{names:?}");
}

async fn whole_files_have_a_limit(env: Env, dir: PathBuf) {
    let path = dir.join("f");
    env.write_file_atomic(&path, vec![1; 100]).await.unwrap();
    assert_eq!(env.read_file(&path, 100).await.unwrap().len(), 100);
    let e = env.read_file(&path, 99).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidData);
}

async fn space(env: Env, dir: PathBuf) {
    let space = env.disk_space(&dir).await.unwrap();
    assert!(space.total >= space.free && space.free > 0, "{space:?}");
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

async fn read_exactly(r: &mut crate::ReadHalf, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    let mut at = 0;
    while at < len {
        let n = r.read(&mut out[at..]).await.unwrap();
        assert!(n > 0, "ended after {at} of {len}");
        at += n;
    }
    out
}

async fn streams_carry_everything_in_order(env: Env, _dir: PathBuf) {
    let listener = env.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    assert_ne!(addr.port(), 0);
    let e = env.clone();
    let client = env.spawn(Class::Latency, async move {
        let stream = e.connect(addr).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), addr);
        let (mut r, mut w) = stream.split();
        w.send(vec![Bytes::from_static(b"hello").into()])
            .await
            .unwrap();
        assert_eq!(read_exactly(&mut r, 5).await, b"HELLO");
        // Many parts, more than one call's worth; the other side reads late.
        let parts: Vec<Part> = (0..300)
            .map(|i| Bytes::from(pattern(40_000, i as u8)).into())
            .collect();
        w.send(parts).await.unwrap();
        w.shutdown();
        let mut buf = [0; 10];
        assert_eq!(r.read(&mut buf).await.unwrap(), 0);
    });
    let (mut r, mut w) = listener.accept().await.unwrap().split();
    assert_eq!(read_exactly(&mut r, 5).await, b"hello");
    w.send(vec![
        Bytes::from_static(b"HE").into(),
        Bytes::new().into(),
        Bytes::from_static(b"LLO").into(),
    ])
    .await
    .unwrap();
    env.sleep(Duration::from_millis(20)).await;
    for i in 0..300 {
        assert_eq!(read_exactly(&mut r, 40_000).await, pattern(40_000, i as u8));
    }
    let mut buf = [0; 10];
    assert_eq!(r.read(&mut buf).await.unwrap(), 0, "the peer has shut down");
    assert_eq!(r.read(&mut []).await.unwrap(), 0);
    drop((r, w));
    client.await;
}

async fn file_parts_are_sent(env: Env, dir: PathBuf) {
    let len = 3 << 20;
    let all = pattern(len, 4);
    let path = dir.join("big");
    let file = env.open(&path, &DIRECT).await.unwrap();
    let mut buf = env.alloc(len);
    buf[..len].copy_from_slice(&all);
    file.write_at(buf, 0).await.unwrap();
    let shared = file.shared();
    // Neither closing nor removing the file takes it from those who send it.
    file.close().await.unwrap();
    env.remove_file(&path).await.unwrap();

    let listener = env.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let e = env.clone();
    let client = env.spawn(Class::Latency, async move {
        let (mut r, _w) = e.connect(addr).await.unwrap().split();
        let head = read_exactly(&mut r, 4).await;
        e.sleep(Duration::from_millis(10)).await;
        (
            head,
            read_exactly(&mut r, len - 10).await,
            read_exactly(&mut r, 300).await,
        )
    });
    let (_r, mut w) = listener.accept().await.unwrap().split();
    w.send(vec![
        Bytes::from_static(b"head").into(),
        Part::File {
            file: shared.clone(),
            pos: 10,
            len: len - 10,
        },
        Part::File {
            file: shared.clone(),
            pos: 4000,
            len: 200,
        },
        Part::File {
            file: shared,
            pos: 0,
            len: 0,
        },
        Bytes::from(all[..100].to_vec()).into(),
    ])
    .await
    .unwrap();
    let (head, body, tail) = client.await;
    assert_eq!(head, b"head");
    assert!(body == all[10..]);
    assert_eq!(tail[..200], all[4000..4200]);
    assert_eq!(tail[200..], all[..100]);
}

async fn a_short_file_part_is_an_error(env: Env, dir: PathBuf) {
    let file = env
        .open(&dir.join("short"), &OpenOptions::new().create())
        .await
        .unwrap();
    file.write_plain(vec![1; 1000], 0).await.unwrap();
    let listener = env.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let client = env.connect(listener.local_addr().unwrap()).await.unwrap();
    let (_r, mut w) = listener.accept().await.unwrap().split();
    let part = Part::File {
        file: file.shared(),
        pos: 500,
        len: 1000,
    };
    let e = w.send(vec![part]).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::UnexpectedEof);
    drop(client);
}

async fn a_closed_peer_is_seen(env: Env, _dir: PathBuf) {
    let listener = env.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let client = env.connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut r, mut w) = listener.accept().await.unwrap().split();
    {
        let mut closed = pin!(r.closed());
        assert!(
            futures_lite::future::poll_once(closed.as_mut())
                .await
                .is_none()
        );
        drop(client);
        closed.await;
    }
    let mut buf = [0; 1];
    assert_eq!(r.read(&mut buf).await.unwrap(), 0);
    // Writing to it fails sooner or later, and raises no signal.
    let mut failed = false;
    for _ in 0..100 {
        if w.send(vec![Bytes::from(vec![0; 100_000]).into()])
            .await
            .is_err()
        {
            failed = true;
            break;
        }
        env.sleep(Duration::from_millis(1)).await;
    }
    assert!(failed);
}

async fn a_refused_connection(env: Env, _dir: PathBuf) {
    let listener = env.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let e = env.connect(addr).await.err().unwrap();
    assert_eq!(e.kind(), ErrorKind::ConnectionRefused);
}

async fn many_connections(env: Env, _dir: PathBuf) {
    let listener = env.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let e = env.clone();
    let server = env.spawn(Class::Latency, async move {
        let mut tasks = Vec::new();
        for _ in 0..100 {
            let (mut r, mut w) = listener.accept().await.unwrap().split();
            tasks.push(e.spawn(Class::Latency, async move {
                let mut buf = [0; 100];
                loop {
                    match r.read(&mut buf).await.unwrap() {
                        0 => break,
                        n => w
                            .send(vec![Bytes::copy_from_slice(&buf[..n]).into()])
                            .await
                            .unwrap(),
                    }
                }
            }));
        }
        for task in tasks {
            task.await;
        }
    });
    let mut clients = Vec::new();
    for i in 0..100u8 {
        let e = env.clone();
        clients.push(env.spawn(Class::Latency, async move {
            let (mut r, mut w) = e.connect(addr).await.unwrap().split();
            for round in 0..20u8 {
                let text = pattern(37, i ^ round);
                w.send(vec![Bytes::from(text.clone()).into()])
                    .await
                    .unwrap();
                assert_eq!(read_exactly(&mut r, 37).await, text);
            }
        }));
    }
    for client in clients {
        client.await;
    }
    server.await;
}
