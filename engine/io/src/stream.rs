//! TCP streams.
//!
//! Invariants: `send` puts all parts on the wire in order or fails; after an error, or when its
//! future was dropped before it ended, the stream is cut at an unknown byte and must be closed.
//! Sending file parts never blocks the shard on the disk.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use bytes::Bytes;

use crate::file::SharedFile;
#[cfg(any(test, feature = "sim"))]
use crate::sim;
use crate::uring;

/// A piece of what is sent.
#[derive(Clone)]
pub enum Part {
    /// Memory.
    Bytes(Bytes),
    /// A range of a file. It must lie below the end of the file: a shorter file is an
    /// `UnexpectedEof` error.
    File {
        /// The file.
        file: SharedFile,
        /// Where the range starts.
        pos: u64,
        /// How long it is (bytes).
        len: usize,
    },
}

impl Part {
    /// The length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Part::Bytes(b) => b.len(),
            Part::File { len, .. } => *len,
        }
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Bytes> for Part {
    fn from(bytes: Bytes) -> Part {
        Part::Bytes(bytes)
    }
}

/// A listening socket.
pub struct Listener(pub(crate) ListenerKind);

pub(crate) enum ListenerKind {
    Uring(uring::Listener),
    #[cfg(any(test, feature = "sim"))]
    Sim(sim::Listener),
}

impl Listener {
    /// The next connection, for whichever shard adopts it ([`crate::Env::adopt`]). After an error
    /// (too many open files, a peer that was gone already) the listener still works; wait a little
    /// before the next call.
    pub async fn accept(&self) -> io::Result<Accepted> {
        match &self.0 {
            ListenerKind::Uring(l) => l.accept().await.map(AcceptedKind::Uring),
            #[cfg(any(test, feature = "sim"))]
            ListenerKind::Sim(l) => l.accept().await.map(AcceptedKind::Sim),
        }
        .map(Accepted)
    }

    /// How many bytes the kernel may hold for each connection from now on before a send waits; it
    /// grants twice as much for its own needs. Unset, it grows with the distance.
    pub fn set_send_buffer(&self, bytes: usize) -> io::Result<()> {
        match &self.0 {
            ListenerKind::Uring(l) => l.set_send_buffer(bytes),
            #[cfg(any(test, feature = "sim"))]
            ListenerKind::Sim(_) => Ok(()),
        }
    }

    /// The address that it listens on.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            ListenerKind::Uring(l) => l.local_addr(),
            #[cfg(any(test, feature = "sim"))]
            ListenerKind::Sim(l) => Ok(l.local_addr()),
        }
    }
}

/// A connection that no shard has yet. Dropped, it is closed.
pub struct Accepted(pub(crate) AcceptedKind);

pub(crate) enum AcceptedKind {
    Uring(OwnedFd),
    #[cfg(any(test, feature = "sim"))]
    Sim(sim::Accepted),
}

/// A connection. `TCP_NODELAY` is on.
pub struct Stream(pub(crate) StreamKind);

pub(crate) enum StreamKind {
    Uring(uring::Stream),
    #[cfg(any(test, feature = "sim"))]
    Sim(sim::Stream),
}

impl Stream {
    /// The other side's address.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            StreamKind::Uring(s) => s.peer_addr(),
            #[cfg(any(test, feature = "sim"))]
            StreamKind::Sim(s) => Ok(s.peer_addr()),
        }
    }

    /// Waits until something has come, and copies the beginning of it to `buf`, to be read as if
    /// nobody had looked; 0 when the peer has closed its side (or `buf` is empty).
    pub async fn peek(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            StreamKind::Uring(s) => s.peek(buf).await,
            #[cfg(any(test, feature = "sim"))]
            StreamKind::Sim(s) => s.peek(buf).await,
        }
    }

    /// Gives the connection up for another shard to adopt. Nothing may have been read or sent.
    pub fn pass_on(self) -> io::Result<Accepted> {
        match self.0 {
            StreamKind::Uring(s) => s.pass_on().map(AcceptedKind::Uring),
            #[cfg(any(test, feature = "sim"))]
            StreamKind::Sim(s) => Ok(AcceptedKind::Sim(s.pass_on())),
        }
        .map(Accepted)
    }

    /// The two directions, for two tasks. The connection closes when both are dropped.
    pub fn split(self) -> (ReadHalf, WriteHalf) {
        match self.0 {
            StreamKind::Uring(s) => {
                let (r, w) = s.split();
                (ReadHalf(ReadKind::Uring(r)), WriteHalf(WriteKind::Uring(w)))
            }
            #[cfg(any(test, feature = "sim"))]
            StreamKind::Sim(s) => {
                let (r, w) = s.split();
                (ReadHalf(ReadKind::Sim(r)), WriteHalf(WriteKind::Sim(w)))
            }
        }
    }
}

/// The direction from the peer.
pub struct ReadHalf(ReadKind);

enum ReadKind {
    Uring(uring::ReadHalf),
    #[cfg(any(test, feature = "sim"))]
    Sim(sim::ReadHalf),
}

impl ReadHalf {
    /// Reads some bytes; 0 when the peer has closed its side (or `buf` is empty).
    pub async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            ReadKind::Uring(r) => r.read(buf).await,
            #[cfg(any(test, feature = "sim"))]
            ReadKind::Sim(r) => r.read(buf).await,
        }
    }

    /// Waits until a read would not wait: bytes are there, or the end, or an error. So memory for
    /// what comes can be got when it comes.
    pub async fn readable(&mut self) -> io::Result<()> {
        match &mut self.0 {
            ReadKind::Uring(r) => r.readable().await,
            #[cfg(any(test, feature = "sim"))]
            ReadKind::Sim(r) => r.readable().await,
        }
    }

    /// Resolves when the peer has closed or reset the connection; takes no bytes. For waits like a
    /// long poll.
    pub async fn closed(&self) {
        match &self.0 {
            ReadKind::Uring(r) => r.closed().await,
            #[cfg(any(test, feature = "sim"))]
            ReadKind::Sim(r) => r.closed().await,
        }
    }
}

/// The direction to the peer.
pub struct WriteHalf(WriteKind);

enum WriteKind {
    Uring(uring::WriteHalf),
    #[cfg(any(test, feature = "sim"))]
    Sim(sim::WriteHalf),
}

impl WriteHalf {
    /// Sends all parts in order: memory in one vectored call per run, files from the page cache
    /// without a copy, or, where their pages are not in memory, off the shard's thread.
    pub async fn send(&mut self, parts: Vec<Part>) -> io::Result<()> {
        match &mut self.0 {
            WriteKind::Uring(w) => w.send(parts).await,
            #[cfg(any(test, feature = "sim"))]
            WriteKind::Sim(w) => w.send(parts).await,
        }
    }

    /// Says that nothing more will be sent; the peer reads 0 bytes after the rest. Best effort.
    pub fn shutdown(&self) {
        match &self.0 {
            WriteKind::Uring(w) => w.shutdown(),
            #[cfg(any(test, feature = "sim"))]
            WriteKind::Sim(w) => w.shutdown(),
        }
    }
}
