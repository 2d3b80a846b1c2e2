//! Starting shards: one pinned executor per core.

use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::env::Env;
use crate::uring;

/// How to run the shards.
#[derive(Clone, Debug)]
pub struct RuntimeOptions {
    /// The cores to run on, one shard each. A core may be given twice.
    pub cores: Vec<usize>,
    /// A turn of a task that is longer than this is counted and reported; `None`: never.
    pub stall_limit: Option<Duration>,
    /// Entries of each shard's ring.
    pub ring_depth: usize,
    /// Threads of each shard for calls that block. They are not pinned.
    pub blocking_threads: usize,
    /// Where the data is: each shard writes a block there and reads it back before it starts.
    pub data_dir: Option<PathBuf>,
}

impl Default for RuntimeOptions {
    fn default() -> RuntimeOptions {
        RuntimeOptions {
            cores: crate::process::available_cores(),
            stall_limit: Some(Duration::from_millis(10)),
            ring_depth: 512,
            blocking_threads: 2,
            data_dir: None,
        }
    }
}

/// The running shards.
pub struct Runtime {
    threads: Vec<JoinHandle<()>>,
    ends: mpsc::Receiver<(usize, End)>,
}

enum End {
    Done,
    Panicked(Box<dyn std::any::Any + Send>),
    Failed(io::Error),
}

/// Starts one shard per core and runs `main(env, shard)` on each. Returns when all executors
/// stand, or with the first error of making one.
pub fn start<F, Fut>(options: RuntimeOptions, main: F) -> io::Result<Runtime>
where
    F: Fn(Env, usize) -> Fut + Send + Clone + 'static,
    Fut: Future<Output = ()> + 'static,
{
    crate::process::ignore_sigpipe();
    let (made_tx, made_rx) = mpsc::channel();
    let (end_tx, ends) = mpsc::channel();
    let mut threads = Vec::with_capacity(options.cores.len());
    for (shard, &core) in options.cores.iter().enumerate() {
        let (options, main) = (options.clone(), main.clone());
        let (made, end) = (made_tx.clone(), end_tx.clone());
        let body = move || {
            let result = catch_unwind(AssertUnwindSafe(|| {
                run_shard(&options, Some(core), &made, move |env| main(env, shard))
            }));
            let _ = end.send((shard, ended(result)));
        };
        threads.push(
            std::thread::Builder::new()
                .name(format!("shard-{shard}"))
                .spawn(body)?,
        );
    }
    drop(made_tx);
    for _ in 0..threads.len() {
        // A shard that dies before it stands closes its end of the channel.
        made_rx
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("a shard died while it started")))?;
    }
    Ok(Runtime { threads, ends })
}

fn ended(result: std::thread::Result<io::Result<()>>) -> End {
    match result {
        Ok(Ok(())) => End::Done,
        Ok(Err(e)) => End::Failed(e),
        Err(panic) => End::Panicked(panic),
    }
}

fn run_shard<F, Fut, T>(
    options: &RuntimeOptions,
    core: Option<usize>,
    made: &mpsc::Sender<io::Result<()>>,
    main: F,
) -> io::Result<T>
where
    F: FnOnce(Env) -> Fut,
    Fut: Future<Output = T> + 'static,
    T: 'static,
{
    let ex = match uring::executor(options, core) {
        Ok(ex) => ex,
        Err(e) => {
            let copy = io::Error::new(e.kind(), e.to_string());
            let _ = made.send(Err(e));
            return Err(copy);
        }
    };
    let _ = made.send(Ok(()));
    uring::run(&ex, options, main)
}

impl Runtime {
    /// Waits until all shards have ended. The first panic of a shard, or error of its runtime, is
    /// passed on at once: the others are in an unknown state then, and the process should go.
    pub fn join(self) -> io::Result<()> {
        for _ in 0..self.threads.len() {
            match self.ends.recv() {
                Ok((_, End::Done)) => {}
                Ok((_, End::Panicked(panic))) => resume_unwind(panic),
                Ok((shard, End::Failed(e))) => {
                    return Err(io::Error::new(e.kind(), format!("shard {shard}: {e}")));
                }
                Err(_) => return Err(io::Error::other("a shard ended without saying how")),
            }
        }
        for thread in self.threads {
            let _ = thread.join();
        }
        Ok(())
    }
}

/// Runs one shard on a thread of its own, not pinned unless `cores` names a core, and returns what
/// `main` returns: for tools and tests.
pub fn run<F, Fut, T>(options: RuntimeOptions, main: F) -> io::Result<T>
where
    F: FnOnce(Env) -> Fut + Send + 'static,
    Fut: Future<Output = T> + 'static,
    T: Send + 'static,
{
    crate::process::ignore_sigpipe();
    let (made, _made_rx) = mpsc::channel();
    let body = move || run_shard(&options, options.cores.first().copied(), &made, main);
    let thread = std::thread::Builder::new()
        .name("shard".into())
        .spawn(body)?;
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}
