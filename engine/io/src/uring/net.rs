//! The kernel arm of sockets. Sending is in `send`.
//!
//! Both halves share one glommio stream: it is borrowed only inside a poll, and keeps its waits
//! for readable and for writable apart. The socket is non-blocking for our own calls.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, Socket, Type};

use super::io_err;
use crate::stream;

const BACKLOG: i32 = 4096;
/// The first and the longest pause between two looks of `closed`.
const CLOSED_FIRST: Duration = Duration::from_millis(50);
const CLOSED_LONGEST: Duration = Duration::from_millis(400);

pub(crate) struct Listener {
    inner: TcpListener,
    addr: SocketAddr,
}

impl Listener {
    pub(super) fn bind(addr: SocketAddr) -> io::Result<Listener> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        let addr = socket.local_addr()?.as_socket().unwrap_or(addr);
        // SAFETY: the descriptor is ours and moves into the listener.
        let inner = unsafe { TcpListener::from_raw_fd(socket.into_raw_fd()) };
        Ok(Listener { inner, addr })
    }

    pub(crate) async fn accept(&self) -> io::Result<stream::Stream> {
        let stream = self.inner.accept().await.map_err(io_err)?;
        Ok(stream::Stream(stream::StreamKind::Uring(Stream::new(
            stream,
        )?)))
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }
}

/// The connection behind both halves.
pub(super) struct Conn(RefCell<TcpStream>);

impl Conn {
    pub(super) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write(cx, bytes)
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        // The ring and the blocking threads may hold on to the socket for a while; the peer shall
        // know at once. What was sent before still arrives.
        // SAFETY: plain call on an open descriptor. An error means that the peer is gone.
        unsafe { libc::shutdown(self.0.borrow().as_raw_fd(), libc::SHUT_RDWR) };
    }
}

pub(crate) struct Stream {
    conn: Rc<Conn>,
    fd: RawFd,
}

impl Stream {
    fn new(inner: TcpStream) -> io::Result<Stream> {
        inner.set_nodelay(true).map_err(io_err)?;
        let fd = inner.as_raw_fd();
        set_nonblocking(fd)?;
        Ok(Stream {
            conn: Rc::new(Conn(RefCell::new(inner))),
            fd,
        })
    }

    pub(super) async fn connect(addr: SocketAddr) -> io::Result<Stream> {
        Stream::new(TcpStream::connect(addr).await.map_err(io_err)?)
    }

    pub(crate) fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.conn.0.borrow().peer_addr().map_err(io_err)
    }

    pub(crate) fn split(self) -> (ReadHalf, WriteHalf) {
        let (conn, fd) = (self.conn, self.fd);
        let write = WriteHalf {
            conn: conn.clone(),
            fd,
            own: None,
        };
        (ReadHalf { conn, fd }, write)
    }
}

fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: plain calls on an open descriptor.
    let ok = unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        flags >= 0 && libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) == 0
    };
    if ok {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

pub(crate) struct ReadHalf {
    conn: Rc<Conn>,
    fd: RawFd,
}

impl ReadHalf {
    pub(crate) async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        poll_fn(|cx| Pin::new(&mut *self.conn.0.borrow_mut()).poll_read(cx, buf)).await
    }

    pub(crate) async fn closed(&self) {
        let mut pause = CLOSED_FIRST;
        while !peer_gone(self.fd) {
            glommio::timer::sleep(pause).await;
            pause = (pause * 2).min(CLOSED_LONGEST);
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
    pub(super) fd: RawFd,
    /// A descriptor of its own for blocking threads, made when first needed.
    own: Option<Arc<OwnedFd>>,
}

impl WriteHalf {
    pub(super) fn own_fd(&mut self) -> io::Result<Arc<OwnedFd>> {
        if let Some(fd) = &self.own {
            return Ok(fd.clone());
        }
        // SAFETY: open as long as `conn` lives.
        let fd = unsafe { BorrowedFd::borrow_raw(self.fd) };
        let own = Arc::new(fd.try_clone_to_owned()?);
        self.own = Some(own.clone());
        Ok(own)
    }

    pub(crate) fn shutdown(&self) {
        // SAFETY: plain call on an open descriptor. An error means that the peer is gone.
        unsafe { libc::shutdown(self.fd, libc::SHUT_WR) };
    }
}
