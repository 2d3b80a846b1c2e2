//! The kernel arm of sockets. Sending is in `send`.
//!
//! Sockets are non-blocking: each call is tried first; one that would block waits until the ring
//! says that the socket is ready. No buffer of a caller is ever left with the kernel.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::shard::Shard;

const BACKLOG: i32 = 4096;

pub(crate) struct Listener {
    shard: Rc<Shard>,
    fd: Arc<OwnedFd>,
    addr: SocketAddr,
}

fn new_socket(addr: SocketAddr) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking();
    Socket::new(Domain::for_address(addr), kind, Some(Protocol::TCP))
}

impl Listener {
    pub(super) fn bind(shard: &Rc<Shard>, addr: SocketAddr) -> io::Result<Listener> {
        let socket = new_socket(addr)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        let addr = socket.local_addr()?.as_socket().unwrap_or(addr);
        Ok(Listener {
            shard: shard.clone(),
            fd: Arc::new(socket.into()),
            addr,
        })
    }

    pub(crate) async fn accept(&self) -> io::Result<OwnedFd> {
        self.shard.yield_if_needed().await;
        loop {
            match accept(self.fd.as_raw_fd()) {
                Ok(fd) => return Ok(fd),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.shard.ring.poll(&self.fd, libc::POLLIN).await.0?;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Accepted sockets inherit it.
    pub(crate) fn set_send_buffer(&self, bytes: usize) -> io::Result<()> {
        SockRef::from(&*self.fd).set_send_buffer_size(bytes)
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }
}

fn accept(fd: RawFd) -> io::Result<OwnedFd> {
    loop {
        let (flags, none) = (
            libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
            std::ptr::null_mut(),
        );
        // SAFETY: the peer's address is not asked for; the result is checked before it is owned.
        let new = unsafe { libc::accept4(fd, none, std::ptr::null_mut(), flags) };
        if new >= 0 {
            // SAFETY: `new` was just made and has no other owner.
            return Ok(unsafe { OwnedFd::from_raw_fd(new) });
        }
        let e = io::Error::last_os_error();
        if e.kind() != io::ErrorKind::Interrupted {
            return Err(e);
        }
    }
}

/// The connection behind both halves.
pub(super) struct Conn {
    pub(super) shard: Rc<Shard>,
    pub(super) fd: Arc<OwnedFd>,
    /// Another shard has it.
    passed_on: Cell<bool>,
}

impl Conn {
    pub(super) fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Waits until the socket is ready for one of `events`, or broken.
    pub(super) async fn ready(&self, events: i16) -> io::Result<()> {
        self.shard.ring.poll(&self.fd, events).await.0.map(drop)
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        if self.passed_on.get() {
            return;
        }
        // The ring and the blocking threads may hold on to the socket for a while; the peer shall
        // know at once. What was sent before still arrives.
        // SAFETY: plain call on an open descriptor. An error means that the peer is gone.
        unsafe { libc::shutdown(self.raw(), libc::SHUT_RDWR) };
    }
}

pub(crate) struct Stream {
    conn: Rc<Conn>,
}

impl Stream {
    pub(super) fn new(shard: &Rc<Shard>, fd: OwnedFd) -> io::Result<Stream> {
        SockRef::from(&fd).set_tcp_nodelay(true)?;
        let conn = Conn {
            shard: shard.clone(),
            fd: Arc::new(fd),
            passed_on: Cell::new(false),
        };
        Ok(Stream {
            conn: Rc::new(conn),
        })
    }

    pub(super) async fn connect(shard: &Rc<Shard>, addr: SocketAddr) -> io::Result<Stream> {
        let socket = new_socket(addr)?;
        let begun = socket.connect(&SockAddr::from(addr));
        let stream = Stream::new(shard, socket.into())?;
        match begun {
            Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => {
                stream.conn.ready(libc::POLLOUT).await?;
                match SockRef::from(&*stream.conn.fd).take_error()? {
                    Some(e) => Err(e),
                    None => Ok(stream),
                }
            }
            other => other.map(|()| stream),
        }
    }

    pub(crate) fn peer_addr(&self) -> io::Result<SocketAddr> {
        let addr = SockRef::from(&*self.conn.fd).peer_addr()?;
        addr.as_socket()
            .ok_or_else(|| io::Error::other("the peer has no IP address"))
    }

    pub(crate) async fn peek(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            self.conn.ready(libc::POLLIN).await?;
            match recv(self.conn.raw(), buf, libc::MSG_PEEK) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }

    /// A descriptor of its own, since the ring may still hold on to the other one.
    pub(crate) fn pass_on(self) -> io::Result<OwnedFd> {
        let fd = self.conn.fd.try_clone()?;
        self.conn.passed_on.set(true);
        Ok(fd)
    }

    pub(crate) fn split(self) -> (ReadHalf, WriteHalf) {
        let write = WriteHalf {
            conn: self.conn.clone(),
        };
        let read = ReadHalf {
            conn: self.conn,
            drained: true,
        };
        (read, write)
    }
}

pub(crate) struct ReadHalf {
    conn: Rc<Conn>,
    /// The last call took all that was there: do not try before the ring says that more came.
    drained: bool,
}

impl ReadHalf {
    pub(crate) async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        self.conn.shard.yield_if_needed().await;
        loop {
            self.readable().await?;
            match recv(self.conn.raw(), buf, 0) {
                Ok(n) => {
                    self.drained = 0 < n && n < buf.len();
                    return Ok(n);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.drained = true,
                Err(e) => return Err(e),
            }
        }
    }

    pub(crate) async fn readable(&mut self) -> io::Result<()> {
        if self.drained {
            self.conn.ready(libc::POLLIN).await?;
            self.drained = false;
        }
        Ok(())
    }

    pub(crate) async fn closed(&self) {
        while !peer_gone(self.conn.raw()) {
            // If the ring cannot wait for it, nobody can say that the peer is there.
            if self.conn.ready(libc::POLLRDHUP).await.is_err() {
                return;
            }
        }
    }
}

fn recv(fd: RawFd, buf: &mut [u8], flags: i32) -> io::Result<usize> {
    let flags = flags | libc::MSG_DONTWAIT;
    loop {
        // SAFETY: the buffer is valid for its length; the call does not block.
        let n = unsafe { libc::recv(fd, buf.as_mut_ptr().cast(), buf.len(), flags) };
        if n >= 0 {
            return Ok(n as usize);
        }
        let e = io::Error::last_os_error();
        if e.kind() != io::ErrorKind::Interrupted {
            return Err(e);
        }
    }
}

/// Whether the peer has closed its side or the connection is broken. Takes no bytes.
fn peer_gone(fd: RawFd) -> bool {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLRDHUP,
        revents: 0,
    };
    // SAFETY: one valid entry; a timeout of 0 never blocks.
    let n = unsafe { libc::poll(&mut poll, 1, 0) };
    let gone = libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR | libc::POLLNVAL;
    n > 0 && poll.revents & gone != 0
}

pub(crate) struct WriteHalf {
    pub(super) conn: Rc<Conn>,
}

impl WriteHalf {
    pub(crate) fn shutdown(&self) {
        // SAFETY: plain call on an open descriptor. An error means that the peer is gone.
        unsafe { libc::shutdown(self.conn.raw(), libc::SHUT_WR) };
    }
}
