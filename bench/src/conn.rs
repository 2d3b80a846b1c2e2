//! One non-blocking connection: a request on its way out, answers on their way in.
//!
//! Record bytes are not copied: a request is a small head with holes, and shared batches are sent
//! in their places (writev). Answers come in the order of the requests, as Kafka promises.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;

use crate::admin::frame_length;
use crate::failure::{Context, Failure, Result};

/// Where the correlation id stands in a request frame.
const CORRELATION_AT: usize = 8;
/// The least room to read into.
const READ_ROOM: usize = 64 * 1024;
/// The most pieces in one write.
const PIECES: usize = 64;

/// A batch and its place in a request.
#[derive(Clone, Debug)]
pub struct Piece {
    /// How many bytes of the head come before it.
    pub at: usize,
    /// Its bytes.
    pub bytes: Rc<[u8]>,
}

/// An encoded request, its batches apart.
#[derive(Clone, Debug, Default)]
pub struct Template {
    /// The frame without the batches; the correlation id in it is replaced.
    pub head: Vec<u8>,
    /// The batches, in the order of their places.
    pub pieces: Vec<Piece>,
    /// The partitions that they are for.
    pub partitions: Vec<i32>,
    /// Records in all of them.
    pub records: u64,
    /// Bytes of all of them.
    pub wire_bytes: u64,
}

/// A request that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    /// When it was due (open loop) or sent (closed loop): nanoseconds of the run's clock.
    pub due: u64,
    /// Records in it.
    pub records: u64,
    /// Bytes of its batches.
    pub wire_bytes: u64,
    correlation: i32,
}

/// A connection.
#[derive(Debug)]
pub struct Conn {
    /// The socket.
    pub stream: TcpStream,
    head: Vec<u8>,
    template: Rc<Template>,
    sent: usize,
    total: usize,
    pending: VecDeque<Pending>,
    correlation: i32,
    input: Vec<u8>,
    filled: usize,
    /// The request on its way out, if no answer will come to it (acks 0).
    unanswered: Option<Pending>,
    /// Whether epoll watches for room to write.
    pub watching_write: bool,
}

impl Conn {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn open(address: SocketAddr) -> Result<Conn> {
        let stream = TcpStream::connect(address)
            .context(|| format!("cannot connect to {address}: is a broker listening there?"))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Conn::of(stream))
    }

    /// Around a socket that does not block and may still be connecting.
    pub fn of(stream: TcpStream) -> Conn {
        Conn {
            stream,
            head: Vec::new(),
            template: Rc::default(),
            sent: 0,
            total: 0,
            pending: VecDeque::new(),
            correlation: 0,
            input: vec![0; READ_ROOM],
            filled: 0,
            unanswered: None,
            watching_write: false,
        }
    }

    /// Whether a request is not yet wholly sent.
    pub fn sending(&self) -> bool {
        self.sent < self.total
    }

    /// A request without an answer that was wholly sent; once.
    pub fn take_unanswered(&mut self) -> Option<Pending> {
        if self.sending() {
            None
        } else {
            self.unanswered.take()
        }
    }

    /// How many requests wait for an answer (the one being sent too).
    pub fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// Takes a request to be sent. Nothing may be on its way out.
    pub fn begin(&mut self, template: Rc<Template>, due: u64, answered: bool) {
        assert!(!self.sending(), "a request is still being sent");
        self.correlation = self.correlation.wrapping_add(1);
        self.head.clear();
        self.head.extend_from_slice(&template.head);
        self.head[CORRELATION_AT..CORRELATION_AT + 4]
            .copy_from_slice(&self.correlation.to_be_bytes());
        self.sent = 0;
        self.total = self.head.len() + template.wire_bytes as usize;
        let pending = Pending {
            due,
            records: template.records,
            wire_bytes: template.wire_bytes,
            correlation: self.correlation,
        };
        self.template = template;
        if answered {
            self.pending.push_back(pending);
        } else {
            self.unanswered = Some(pending);
        }
    }

    /// Sends as much as the socket takes.
    ///
    /// # Errors
    /// The connection broke.
    pub fn flush(&mut self) -> Result<()> {
        while self.sending() {
            let mut pieces = [IoSlice::new(&[]); PIECES];
            let count = self.pieces(&mut pieces);
            match (&self.stream).write_vectored(&pieces[..count]) {
                Ok(0) => return Err(closed()),
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context(|| "cannot send a request".into()),
            }
        }
        Ok(())
    }

    /// What is still to be sent, as far as it fits.
    fn pieces<'a>(&'a self, out: &mut [IoSlice<'a>; PIECES]) -> usize {
        let (mut skip, mut from, mut count) = (self.sent, 0, 0);
        let mut add = |piece: &'a [u8]| {
            let past = skip.min(piece.len());
            skip -= past;
            if past < piece.len() && count < PIECES {
                out[count] = IoSlice::new(&piece[past..]);
                count += 1;
            }
        };
        for piece in &self.template.pieces {
            add(&self.head[from..piece.at]);
            add(&piece.bytes);
            from = piece.at;
        }
        add(&self.head[from..]);
        count
    }

    /// Reads once and gives every whole answer to `each`.
    ///
    /// # Errors
    /// The connection broke, or what came is no answer to the oldest request; errors of `each`.
    pub fn receive(&mut self, mut each: impl FnMut(&[u8], Pending) -> Result<()>) -> Result<()> {
        match (&self.stream).read(&mut self.input[self.filled..]) {
            Ok(0) => return Err(closed()),
            Ok(read) => self.filled += read,
            Err(error) if transient(&error) => return Ok(()),
            Err(error) => return Err(error).context(|| "cannot read an answer".into()),
        }
        let mut at = 0;
        while let Some(length) = self.length_at(at)? {
            if self.filled < at + 4 + length {
                break;
            }
            let frame = &self.input[at + 4..at + 4 + length];
            let pending = self.pending.pop_front();
            let pending = pending.ok_or_else(|| Failure::new("an answer that nobody asked for"))?;
            if frame.get(..4) != Some(&pending.correlation.to_be_bytes()) {
                return Err(Failure::new("an answer with another correlation id"));
            }
            each(frame, pending)?;
            at += 4 + length;
        }
        self.input.copy_within(at..self.filled, 0);
        self.filled -= at;
        self.make_room()
    }

    fn length_at(&self, at: usize) -> Result<Option<usize>> {
        let bytes = self.input[at..self.filled].first_chunk::<4>();
        bytes.map(|bytes| frame_length(*bytes)).transpose()
    }

    /// Room for the whole frame that has begun.
    fn make_room(&mut self) -> Result<()> {
        let need = self.length_at(0)?.map_or(0, |length| length + 4);
        if self.input.len() < need.max(self.filled + 1) {
            self.input.resize(need.max(self.filled + READ_ROOM), 0);
        }
        Ok(())
    }
}

fn transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn closed() -> Failure {
    Failure::new("the broker closed the connection in the middle of the run")
}
