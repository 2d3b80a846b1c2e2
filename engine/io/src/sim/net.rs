//! The simulator's network: pipes in memory. Reads and writes are cut at random.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};

use super::exec::World;
use super::faults::DiskOp;
use crate::file::SharedKind;
use crate::stream::Part;

/// What a pipe holds before its writer waits (bytes). As much as sockets hold, or a reader would
/// never find many frames at once.
const PIPE: usize = 4 << 20;

#[derive(Default)]
pub(crate) struct Net {
    listeners: BTreeMap<SocketAddr, Vec<Weak<Backlog>>>,
    next_port: u16,
    /// Connections that were accepted and not yet adopted.
    accepted: BTreeMap<u64, Stream>,
    next_accepted: u64,
}

/// A connection in [`Net`]. A number, since it may go from thread to thread, as what the other arm
/// has; dropped, its connection stays open.
pub(crate) struct Accepted(u64);

#[derive(Default)]
struct Backlog {
    waiting: RefCell<VecDeque<Stream>>,
    accepting: RefCell<Option<Waker>>,
}

#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    /// The writer is gone or has shut down.
    ended: bool,
    /// The reader is gone.
    broken: bool,
    reader: Vec<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn wake(&mut self) {
        for waker in self.reader.drain(..).chain(self.writer.take()) {
            waker.wake();
        }
    }
}

type End = Rc<RefCell<Pipe>>;

pub(crate) struct Listener {
    world: Rc<World>,
    addr: SocketAddr,
    backlog: Rc<Backlog>,
}

impl Listener {
    pub(super) fn bind(world: Rc<World>, mut addr: SocketAddr) -> io::Result<Listener> {
        let backlog = Rc::new(Backlog::default());
        {
            let mut net = world.net.borrow_mut();
            if addr.port() == 0 {
                addr.set_port(40_000 + net.next_port);
                net.next_port += 1;
            }
            net.listeners
                .entry(addr)
                .or_default()
                .push(Rc::downgrade(&backlog));
        }
        Ok(Listener {
            world,
            addr,
            backlog,
        })
    }

    pub(crate) async fn accept(&self) -> io::Result<Accepted> {
        let stream = poll_fn(|cx| match self.backlog.waiting.borrow_mut().pop_front() {
            Some(stream) => Poll::Ready(stream),
            None => {
                *self.backlog.accepting.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        })
        .await;
        self.world.trace(u64::from(stream.peer.port()));
        Ok(stream.pass_on())
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.addr
    }
}

pub(crate) struct Stream {
    world: Rc<World>,
    peer: SocketAddr,
    incoming: Side,
    outgoing: Side,
}

impl Stream {
    pub(super) fn adopt(world: &World, accepted: &Accepted) -> io::Result<Stream> {
        let stream = world.net.borrow_mut().accepted.remove(&accepted.0);
        stream.ok_or_else(|| io::Error::other("a connection of another simulated network"))
    }

    pub(super) fn connect(world: Rc<World>, addr: SocketAddr) -> io::Result<Stream> {
        let (mut live, port) = {
            let mut net = world.net.borrow_mut();
            net.next_port += 1;
            let port = 50_000 + net.next_port % 10_000;
            let all = net.listeners.get(&addr).map_or(&[][..], |l| l);
            (
                all.iter().filter_map(Weak::upgrade).collect::<Vec<_>>(),
                port,
            )
        };
        if live.is_empty() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let backlog = live.swap_remove(world.random(|r| r.below(live.len() as u64)) as usize);
        let (there, back) = (End::default(), End::default());
        let client = SocketAddr::new(addr.ip(), port);
        backlog.waiting.borrow_mut().push_back(Stream {
            world: world.clone(),
            peer: client,
            incoming: Side::Read(there.clone()),
            outgoing: Side::Write(back.clone()),
        });
        if let Some(waker) = backlog.accepting.borrow_mut().take() {
            waker.wake();
        }
        Ok(Stream {
            world,
            peer: addr,
            incoming: Side::Read(back),
            outgoing: Side::Write(there),
        })
    }

    pub(crate) fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    pub(crate) async fn peek(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        readable(self.incoming.pipe()).await;
        let pipe = self.incoming.pipe().borrow();
        let n = pipe.bytes.len().min(buf.len());
        for (to, byte) in buf.iter_mut().zip(&pipe.bytes) {
            *to = *byte;
        }
        Ok(n)
    }

    pub(crate) fn pass_on(self) -> Accepted {
        let world = self.world.clone();
        let mut net = world.net.borrow_mut();
        net.next_accepted += 1;
        let key = net.next_accepted;
        net.accepted.insert(key, self);
        Accepted(key)
    }

    pub(crate) fn split(self) -> (ReadHalf, WriteHalf) {
        let read = ReadHalf {
            world: self.world.clone(),
            pipe: self.incoming,
        };
        (
            read,
            WriteHalf {
                world: self.world,
                pipe: self.outgoing,
            },
        )
    }
}

/// An end of a pipe; tells the other side when it goes.
enum Side {
    Read(End),
    Write(End),
}

impl Side {
    fn pipe(&self) -> &End {
        match self {
            Side::Read(p) | Side::Write(p) => p,
        }
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let mut pipe = self.pipe().borrow_mut();
        match self {
            Side::Read(_) => pipe.broken = true,
            Side::Write(_) => pipe.ended = true,
        }
        pipe.wake();
    }
}

/// Waits for bytes, or the end.
async fn readable(pipe: &End) {
    poll_fn(|cx| {
        let mut pipe = pipe.borrow_mut();
        if pipe.ended || !pipe.bytes.is_empty() {
            return Poll::Ready(());
        }
        pipe.reader.push(cx.waker().clone());
        Poll::Pending
    })
    .await;
}

pub(crate) struct ReadHalf {
    world: Rc<World>,
    pipe: Side,
}

impl ReadHalf {
    pub(crate) async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        poll_fn(|cx| {
            let mut pipe = self.pipe.pipe().borrow_mut();
            let most = pipe.bytes.len().min(buf.len());
            if most == 0 {
                if pipe.ended {
                    return Poll::Ready(Ok(0));
                }
                pipe.reader.push(cx.waker().clone());
                return Poll::Pending;
            }
            let n = self.world.random(|r| match r.below(3) {
                0 => r.range(1..most as u64 + 1) as usize,
                _ => most,
            });
            let (a, b) = pipe.bytes.as_slices();
            let first = a.len().min(n);
            buf[..first].copy_from_slice(&a[..first]);
            buf[first..n].copy_from_slice(&b[..n - first]);
            pipe.bytes.drain(..n);
            if let Some(waker) = pipe.writer.take() {
                waker.wake();
            }
            Poll::Ready(Ok(n))
        })
        .await
    }

    pub(crate) async fn readable(&mut self) -> io::Result<()> {
        readable(self.pipe.pipe()).await;
        Ok(())
    }

    pub(crate) async fn closed(&self) {
        poll_fn(|cx| {
            let mut pipe = self.pipe.pipe().borrow_mut();
            if pipe.ended {
                return Poll::Ready(());
            }
            pipe.reader.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

pub(crate) struct WriteHalf {
    world: Rc<World>,
    pipe: Side,
}

impl WriteHalf {
    pub(crate) async fn send(&mut self, parts: Vec<Part>) -> io::Result<()> {
        for part in parts {
            match part {
                Part::Bytes(bytes) => self.write(&bytes).await?,
                Part::File { file, pos, len } => {
                    let SharedKind::Sim(ino) = file.0 else {
                        let text = "a real file on a socket of the simulator";
                        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
                    };
                    let read = self.world.disk_op(DiskOp::Read, Path::new("")).await;
                    read.inspect_err(|_| ino.fail())?;
                    let bytes = self.world.disk.borrow().read(ino.ino(), pos, len);
                    self.write(&bytes).await?;
                    if bytes.len() < len {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
            }
        }
        Ok(())
    }

    async fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        poll_fn(|cx| {
            let mut pipe = self.pipe.pipe().borrow_mut();
            while !bytes.is_empty() {
                if pipe.broken || pipe.ended {
                    return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                }
                let room = PIPE.saturating_sub(pipe.bytes.len()).min(bytes.len());
                if room == 0 {
                    pipe.writer = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                let n = self.world.random(|r| r.range(1..room as u64 + 1)) as usize;
                pipe.bytes.extend(&bytes[..n]);
                bytes = &bytes[n..];
                for waker in pipe.reader.drain(..) {
                    waker.wake();
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    pub(crate) fn shutdown(&self) {
        let mut pipe = self.pipe.pipe().borrow_mut();
        pipe.ended = true;
        pipe.wake();
    }
}
