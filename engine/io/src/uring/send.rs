//! Sending: runs of memory by one vectored call, file ranges by sendfile.
//!
//! A file range goes out in chunks. A chunk whose pages are in memory is sent from the shard; one
//! that is not is sent by a blocking thread, so that the disk never holds the shard up. When the
//! socket is full, the task waits for room. After each chunk others get their turn.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::file::SharedFd;
use super::net::WriteHalf;
use super::shard::clock_ns;
use crate::buf::BLOCK;
use crate::file::SharedKind;
use crate::local::yield_now;
use crate::stream::Part;

/// What is sent between two looks at the clock (bytes).
const CHUNK: usize = 256 << 10;
/// How far ahead one looks whether pages are in memory (bytes),
const LOOK_AHEAD: usize = 1 << 20;
/// and for how long that is believed (ns).
const RESIDENT_FOR: u64 = 5_000_000;
/// Buffers in one vectored call.
const IOV_MAX: usize = 64;
impl WriteHalf {
    pub(crate) async fn send(&mut self, parts: Vec<Part>) -> io::Result<()> {
        let mut run: Vec<Bytes> = Vec::with_capacity(parts.len().min(IOV_MAX));
        for part in parts {
            match part {
                Part::Bytes(b) if b.is_empty() => {}
                Part::Bytes(b) => run.push(b),
                Part::File { len: 0, .. } => {}
                Part::File { file, pos, len } => {
                    self.send_run(&mut run, true).await?;
                    match file.0 {
                        SharedKind::Uring(fd) => self.send_file(&fd, pos, len).await?,
                        #[cfg(any(test, feature = "sim"))]
                        SharedKind::Sim(_) => return Err(other_arm()),
                    }
                }
            }
        }
        self.send_run(&mut run, false).await
    }

    /// Sends all of `run` and empties it. `more`: something follows at once.
    async fn send_run(&mut self, run: &mut Vec<Bytes>, more: bool) -> io::Result<()> {
        let (mut first, mut since_yield) = (0, 0);
        while first < run.len() {
            match send_vectored(self.conn.raw(), &run[first..], more) {
                Ok(mut n) => {
                    since_yield += n;
                    while n > 0 {
                        let step = n.min(run[first].len());
                        run[first].advance(step);
                        n -= step;
                        if run[first].is_empty() {
                            first += 1;
                        }
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.conn.ready(libc::POLLOUT).await?;
                    since_yield = 0;
                }
                Err(e) => return Err(e),
            }
            if since_yield >= CHUNK {
                since_yield = 0;
                yield_now().await;
            }
        }
        run.clear();
        Ok(())
    }

    async fn send_file(&mut self, fd: &Arc<SharedFd>, mut pos: u64, len: usize) -> io::Result<()> {
        let end = pos + len as u64;
        let mut known = Resident::default();
        while pos < end {
            let want = ((end - pos) as usize).min(CHUNK);
            let resident = known.covers(fd, pos..pos + want as u64, end)?;
            self.conn.shard.count_chunk(resident);
            let sent = if resident {
                sendfile(self.conn.raw(), fd.fd()?, pos, want)
            } else {
                let (socket, file) = (self.conn.fd.clone(), fd.clone());
                let cold = file.cold();
                let call = move || {
                    let _cold = cold;
                    sendfile(socket.as_raw_fd(), file.fd()?, pos, want)
                };
                self.conn.shard.pool.run(call).await
            };
            match sent {
                Ok(0) => return Err(past_end(pos)),
                Ok(n) => pos += n as u64,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.conn.ready(libc::POLLOUT).await?;
                }
                Err(e) => {
                    fd.note(&e);
                    return Err(e);
                }
            }
            if pos < end && resident {
                yield_now().await;
            }
        }
        Ok(())
    }
}

#[cfg(any(test, feature = "sim"))]
fn other_arm() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        "a file of the simulator on a real socket",
    )
}

fn past_end(pos: u64) -> io::Error {
    let text = format!("the file ends at {pos}, but more of it should be sent");
    io::Error::new(io::ErrorKind::UnexpectedEof, text)
}

/// One non-blocking vectored send.
fn send_vectored(fd: RawFd, parts: &[Bytes], more: bool) -> io::Result<usize> {
    let mut iov = [libc::iovec {
        iov_base: std::ptr::null_mut(),
        iov_len: 0,
    }; IOV_MAX];
    let (mut count, mut bytes) = (0, 0);
    for (slot, part) in iov.iter_mut().zip(parts) {
        // Past the chunk a yield is due; one large buffer is cut by the kernel's own limit.
        if bytes >= CHUNK {
            break;
        }
        let len = part.len().min(CHUNK);
        *slot = libc::iovec {
            iov_base: part.as_ptr() as *mut libc::c_void,
            iov_len: len,
        };
        bytes += len;
        count += 1;
        if len < part.len() {
            break;
        }
    }
    // SAFETY: zeros are a valid `msghdr` (no address, no control data).
    let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
    msg.msg_iov = iov.as_mut_ptr();
    msg.msg_iovlen = count;
    let more = if more || count < parts.len() {
        libc::MSG_MORE
    } else {
        0
    };
    loop {
        // SAFETY: `iov` points at memory that `parts` keeps alive; the kernel only reads it.
        let n = unsafe { libc::sendmsg(fd, &msg, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT | more) };
        if n >= 0 {
            return Ok(n as usize);
        }
        let e = io::Error::last_os_error();
        if e.kind() != io::ErrorKind::Interrupted {
            return Err(e);
        }
    }
}

fn sendfile(socket: RawFd, file: RawFd, pos: u64, len: usize) -> io::Result<usize> {
    loop {
        let mut at = pos as libc::off_t;
        // SAFETY: `at` is valid for the call; the socket is non-blocking.
        let n = unsafe { libc::sendfile(socket, file, &mut at, len) };
        if n >= 0 {
            return Ok(n as usize);
        }
        let e = io::Error::last_os_error();
        if e.kind() != io::ErrorKind::Interrupted {
            return Err(e);
        }
    }
}

/// A stretch of a file whose pages were in memory a moment ago.
#[derive(Default)]
struct Resident {
    until: u64,
    seen: u64,
}

impl Resident {
    /// Whether all pages of `range` are in memory. Looks further than that, at most to `end`, so
    /// that the next chunks need no look.
    fn covers(&mut self, fd: &SharedFd, range: Range<u64>, end: u64) -> io::Result<bool> {
        let now = clock_ns();
        if range.end <= self.until && now - self.seen < RESIDENT_FOR {
            return Ok(true);
        }
        let ahead = end.min(range.start + LOOK_AHEAD as u64);
        for until in [ahead, range.end] {
            // What is being read in counts as cached, and would hold the shard up.
            let all = match fd.is_cold() {
                false => cached(fd.fd()?, range.start..until),
                true => None,
            };
            if all.unwrap_or_else(|| mapped(fd, range.start..until)) {
                (self.until, self.seen) = (until, now);
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The call `cachestat`, which has this number on all machines.
const SYS_CACHESTAT: libc::c_long = 451;

/// `struct cachestat_range` of the kernel.
#[repr(C)]
struct CacheRange {
    off: u64,
    len: u64,
}

/// `struct cachestat`, in pages.
#[repr(C)]
#[derive(Default)]
struct CacheStat {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// Whether the page cache has all pages of the range, be they read already or on their way;
/// `None` where the kernel cannot say (before 6.5).
fn cached(fd: RawFd, range: Range<u64>) -> Option<bool> {
    let asked = CacheRange {
        off: range.start,
        len: range.end - range.start,
    };
    let mut stat = CacheStat::default();
    // SAFETY: both structs are laid out as the kernel's, and valid for the call.
    let result = unsafe { libc::syscall(SYS_CACHESTAT, fd, &asked, &mut stat, 0) };
    let pages = range.end.div_ceil(BLOCK as u64) - range.start / BLOCK as u64;
    (result == 0).then_some(stat.cached >= pages)
}

/// Whether all pages of the range can be read without a wait. `false` when that cannot be told.
fn mapped(fd: &SharedFd, range: Range<u64>) -> bool {
    let start = range.start / BLOCK as u64 * BLOCK as u64;
    let span = (range.end - start) as usize;
    let pages = span.div_ceil(BLOCK);
    let mut map = [0u8; LOOK_AHEAD / BLOCK + 2];
    let Ok(fd) = fd.fd() else { return false };
    if pages > map.len() {
        return false;
    }
    // SAFETY: a fresh mapping that is never read, only asked about, and unmapped before the end;
    // `map` has a byte for each of its pages.
    unsafe {
        let prot = libc::PROT_READ;
        let off = start as libc::off_t;
        let at = libc::mmap(std::ptr::null_mut(), span, prot, libc::MAP_SHARED, fd, off);
        if at == libc::MAP_FAILED {
            return false;
        }
        let asked = libc::mincore(at, span, map.as_mut_ptr()) == 0;
        libc::munmap(at, span);
        asked && map[..pages].iter().all(|page| page & 1 == 1)
    }
}
