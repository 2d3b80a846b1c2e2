//! Making a shard and running its main future.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::env::Env;
use super::shard::Shard;
use crate::buf::BLOCK;
use crate::env;
use crate::file::{File, OpenOptions};
use crate::runtime::RuntimeOptions;

/// A shard for the calling thread, pinned to `core` if there is one.
pub(crate) fn executor(options: &RuntimeOptions, core: Option<usize>) -> io::Result<Rc<Shard>> {
    let shard = Shard::new(options, crate::process::available_cores())?;
    if let Some(core) = core {
        crate::process::pin(&[core]);
    }
    Ok(shard)
}

/// Runs `main` as the shard's first task; when it ends, drops all other tasks.
pub(crate) fn run<F, Fut, T>(shard: &Rc<Shard>, options: &RuntimeOptions, main: F) -> io::Result<T>
where
    F: FnOnce(env::Env) -> Fut,
    Fut: Future<Output = T> + 'static,
    T: 'static,
{
    shard.home.move_in();
    let _watched = shard.watch.enrol(shard.pool.cores());
    let env = env::Env(env::Kind::Uring(Env::new(shard.clone())));
    if let Some(dir) = options.data_dir.clone() {
        let mut attempt = pin!(env.spawn(env::Class::Latency, try_direct_io(env.clone(), dir)));
        shard.run_until(|| attempt.is_finished())?;
        if let Poll::Ready(Err(e)) = poll(attempt.as_mut()) {
            shard.close()?;
            return Err(e);
        }
    }
    let mut main = pin!(env.spawn(env::Class::Latency, main(env.clone())));
    shard.run_until(|| main.is_finished())?;
    let result = poll(main.as_mut());
    drop(env);
    shard.close()?;
    match result {
        Poll::Ready(value) => Ok(value),
        Poll::Pending => Err(io::Error::other("the main task of a shard was dropped")),
    }
}

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Writes a block to a new file in `dir`, reads it back, and removes the file.
async fn try_direct_io(env: env::Env, dir: PathBuf) -> io::Result<()> {
    let path = dir.join(format!(".streamd-probe.{:x}", crate::process::seed()));
    let options = OpenOptions::new().create().direct().durable();
    let file = env.open(&path, &options).await?;
    let result = write_and_read(&env, &file).await;
    drop(file);
    env.remove_file(&path).await?;
    match result {
        // A full disk is no reason not to start: room is made, or waited for, later.
        Err(e) if e.kind() == io::ErrorKind::StorageFull => Ok(()),
        result => result,
    }
}

async fn write_and_read(env: &env::Env, file: &File) -> io::Result<()> {
    let mut buf = env.alloc(BLOCK);
    buf.fill(0x5a);
    let written = file.write_at(buf, 0).await?;
    if file.read_at(0, BLOCK).await? == written {
        return Ok(());
    }
    let text = "a small file reads back other bytes than were written to it";
    Err(io::Error::other(text))
}
