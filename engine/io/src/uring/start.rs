//! Making an executor and running a shard's main future on it.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use glommio::{
    Latency, LocalExecutor, LocalExecutorBuilder, Placement, PoolPlacement, Shares, TaskQueueHandle,
};

use super::env::Env;
use super::io_err;
use super::shard::{Shard, reactor_pass};
use super::watch;
use crate::env;
use crate::runtime::RuntimeOptions;

/// What tests switch to show that a guard is needed.
#[derive(Clone, Copy, Debug)]
pub struct Knobs {
    /// glommio's preemption timer. Long, so that it hardly ever fires between a look at the rings
    /// and the first task.
    pub preempt: Duration,
    /// The watch.
    pub watch: bool,
    /// Sending tasks through the reactor when the shard has been busy for long.
    pub defer: bool,
    /// Opening a really written file first.
    pub prime: bool,
}

impl Default for Knobs {
    fn default() -> Knobs {
        Knobs {
            preempt: Duration::from_millis(100),
            watch: true,
            defer: true,
            prime: true,
        }
    }
}

/// An executor for the calling thread, pinned to `core` if there is one.
pub(crate) fn executor(options: &RuntimeOptions, core: Option<usize>) -> io::Result<LocalExecutor> {
    let placement = core.map_or(Placement::Unbound, Placement::Fixed);
    LocalExecutorBuilder::new(placement)
        .name("shard")
        .io_memory(options.io_memory)
        .ring_depth(options.ring_depth)
        .preempt_timer(options.knobs.preempt)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(options.blocking_threads.max(1)))
        .make()
        .map_err(io_err)
}

fn queue(shares: usize, name: &str) -> TaskQueueHandle {
    glommio::executor().create_task_queue(Shares::Static(shares), Latency::NotImportant, name)
}

/// Runs `main` as the shard's first task; when it ends, drops all other tasks.
pub(crate) fn run<F, Fut, T>(ex: &LocalExecutor, options: &RuntimeOptions, main: F) -> io::Result<T>
where
    F: FnOnce(env::Env) -> Fut,
    Fut: Future<Output = T> + 'static,
    T: 'static,
{
    let main = RefCell::new(Some(main));
    ex.run(async {
        let queues = [queue(1000, "latency"), queue(100, "background")];
        let shard = Shard::new(
            queues,
            options.stall_limit,
            options.knobs,
            crate::process::seed(),
        );
        let system = start_system(&shard);
        if let (Some(primed), Some(dir)) = (&shard.primed, &options.data_dir) {
            primed.ensure(dir).await?;
        }
        if options.knobs.watch {
            watch::add(&shard.home)?;
        }
        let env = env::Env(env::Kind::Uring(Env::new(shard.clone())));
        let main = main.borrow_mut().take().expect("run once");
        let future = main(env.clone());
        let result = env.spawn(env::Class::Latency, future).await;
        close(&shard).await;
        for task in system {
            task.cancel().await;
        }
        Ok(result)
    })
}

fn start_system(shard: &Rc<Shard>) -> [glommio::Task<()>; 2] {
    let home = shard.home.clone();
    let bell = std::future::poll_fn(move |cx| home.answer(cx));
    [
        glommio::spawn_local(bell),
        glommio::spawn_local(shard.clone().run_pump()),
    ]
}

/// Drops the futures of all tasks. A task that its neighbours' drops wake gets more rounds.
async fn close(shard: &Shard) {
    for _ in 0..1000 {
        if shard.close_tasks() == 0 {
            break;
        }
        reactor_pass().await;
    }
    shard.home.close();
}
