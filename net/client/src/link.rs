//! One connection: a thread reads frames and hands each to whoever waits for it.
//!
//! Invariant: when the connection ends, everybody who waits finds out; a link that is dropped ends
//! its thread and its socket.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use streamd_model::NodeId;
use streamd_wire::native::{
    Body, HEADER_BYTES, HELLO_BYTES_MAX, Header, Hello, PAYLOAD_BYTES_MAX, VERSION,
};

use crate::error::{Error, Result};

/// A quiet connection says so often that it is there.
const PING_EVERY: Duration = Duration::from_secs(60);
/// Memory for a payload is got in pieces of this size, as it comes.
const PIECE: u64 = 1 << 20;

/// A frame that came.
pub struct Frame {
    pub header: Header,
    payload: Vec<u8>,
}

impl Frame {
    /// What it says; an error of the broker's is one here.
    pub fn body(&self) -> Result<Body<'_>> {
        match Body::decode(&self.header, &self.payload).map_err(Error::malformed)? {
            Body::Error(e) => Err(Error::Refused(e.code, e.text.to_owned())),
            body => Ok(body),
        }
    }
}

/// Who waits for what.
#[derive(Default)]
struct Waiting {
    answers: BTreeMap<u64, Sender<Frame>>,
    streams: BTreeMap<u32, Sender<Frame>>,
    last: u64,
    last_stream: u32,
    /// Why the connection ended, if it has.
    ended: Option<Error>,
}

/// A connection to a broker.
pub struct Link {
    address: String,
    node: OnceLock<i32>,
    socket: TcpStream,
    writer: Mutex<TcpStream>,
    waiting: Arc<Mutex<Waiting>>,
    /// Dropped with the link: then the thread that pings ends.
    _alive: Sender<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    /// Connects, and is welcome.
    ///
    /// # Errors
    /// [`Error::Lost`]; [`Error::Refused`] if the broker does not want us.
    pub fn open(address: &str, until: Instant) -> Result<Arc<Link>> {
        let lost = |e: std::io::Error| Error::Lost(format!("cannot connect to {address}: {e}"));
        let left = until.saturating_duration_since(Instant::now());
        let left = left.max(Duration::from_millis(1));
        let at = address.to_socket_addrs().map_err(lost)?.next();
        let at = at.ok_or_else(|| Error::Lost(format!("{address} is no address")))?;
        let socket = TcpStream::connect_timeout(&at, left).map_err(lost)?;
        socket.set_nodelay(true).map_err(lost)?;
        let writer = Mutex::new(socket.try_clone().map_err(lost)?);
        let reader = socket.try_clone().map_err(lost)?;
        let waiting: Arc<Mutex<Waiting>> = Arc::default();
        let (alive, dropped) = channel();
        let link = Arc::new(Link {
            address: address.to_owned(),
            node: OnceLock::new(),
            socket,
            writer,
            waiting: waiting.clone(),
            _alive: alive,
        });
        spawn("streamd-reader", move || read_all(reader, &waiting))?;
        let hello = Body::Hello(Hello {
            versions: (VERSION, VERSION),
            node: NodeId(-1),
            incarnation: [0; 16],
            directory: [0; 16],
            cluster: "",
            name: "streamd-client",
        });
        let answer = link.ask(0, &hello)?;
        let frame = match answer.recv_timeout(left) {
            Ok(frame) => frame,
            Err(RecvTimeoutError::Disconnected) => return Err(link.why()),
            Err(RecvTimeoutError::Timeout) => {
                return Err(Error::Lost(format!("{address} does not answer")));
            }
        };
        match frame.body()? {
            Body::Welcome(welcome) => {
                link.node.get_or_init(|| welcome.node.0);
            }
            other => return Err(Error::malformed(format!("{other:?} to Hello"))),
        }
        let weak = Arc::downgrade(&link);
        spawn("streamd-pinger", move || ping(&weak, &dropped))?;
        Ok(link)
    }

    /// Where it was connected to.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The node that is there; -1 before it has said so.
    pub fn node(&self) -> i32 {
        self.node.get().copied().unwrap_or(-1)
    }

    /// Whether it can still be used.
    pub fn is_open(&self) -> bool {
        lock(&self.waiting).ended.is_none()
    }

    /// Nothing comes from it any more, for this reason.
    pub fn end(&self, why: Error) {
        end(&self.waiting, why);
        // It may have ended already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Why it ended.
    pub fn why(&self) -> Error {
        let ended = lock(&self.waiting).ended.clone();
        ended.unwrap_or_else(|| Error::Lost("the connection is closed".to_owned()))
    }

    /// Asks something; the answer comes, or the channel ends.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn ask(&self, stream: u32, body: &Body<'_>) -> Result<Receiver<Frame>> {
        let (sender, receiver) = channel();
        let id = {
            let mut waiting = lock(&self.waiting);
            if let Some(error) = &waiting.ended {
                return Err(error.clone());
            }
            waiting.last += 1;
            let id = waiting.last;
            waiting.answers.insert(id, sender);
            id
        };
        self.send((stream, id), body)?;
        Ok(receiver)
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// The connection has ended, or nothing comes in this time.
    pub fn answer(&self, stream: u32, body: &Body<'_>, until: Instant) -> Result<Frame> {
        let answer = self.ask(stream, body)?;
        self.wait(&answer, until)
    }

    /// Waits for the answer to what was asked.
    ///
    /// # Errors
    /// As [`Link::answer`].
    pub fn wait(&self, answer: &Receiver<Frame>, until: Instant) -> Result<Frame> {
        let left = until.saturating_duration_since(Instant::now());
        match answer.recv_timeout(left) {
            Ok(frame) => Ok(frame),
            Err(RecvTimeoutError::Disconnected) => Err(self.why()),
            Err(RecvTimeoutError::Timeout) => {
                let text = "the broker did not answer in time".to_owned();
                Err(Error::Lost(text))
            }
        }
    }

    /// Says something that has no answer.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn send(&self, (stream, id): (u32, u64), body: &Body<'_>) -> Result<()> {
        let mut bytes = Vec::with_capacity(256);
        let tail = body.encode((stream, id, 0), &mut bytes);
        bytes.extend_from_slice(tail);
        let sent = lock(&self.writer).write_all(&bytes);
        sent.map_err(|e| {
            let error = Error::Lost(format!("the connection broke: {e}"));
            end(&self.waiting, error.clone());
            error
        })
    }

    /// The number of a stream that nobody has, and what comes on it.
    pub fn new_stream(&self) -> (u32, Receiver<Frame>) {
        let (sender, receiver) = channel();
        let mut waiting = lock(&self.waiting);
        waiting.last_stream += 1;
        let stream = waiting.last_stream;
        if waiting.ended.is_none() {
            waiting.streams.insert(stream, sender);
        }
        (stream, receiver)
    }

    /// Nobody reads a stream any more.
    pub fn forget_stream(&self, stream: u32) {
        let known = lock(&self.waiting).streams.remove(&stream).is_some();
        if known {
            // If the connection has ended, so has the stream.
            let _ = self.send((stream, 0), &Body::Unsubscribe);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The thread that reads ends by it; it may have ended already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(run);
    spawned
        .map(drop)
        .map_err(|e| Error::Lost(format!("cannot start a thread: {e}")))
}

fn ping(link: &Weak<Link>, dropped: &Receiver<()>) {
    while let Err(RecvTimeoutError::Timeout) = dropped.recv_timeout(PING_EVERY) {
        let Some(link) = link.upgrade() else { return };
        // The answer is of no interest.
        if link.send((0, 0), &Body::Ping).is_err() {
            return;
        }
    }
}

fn end(waiting: &Mutex<Waiting>, error: Error) {
    let mut waiting = lock(waiting);
    waiting.ended.get_or_insert(error);
    waiting.answers.clear();
    waiting.streams.clear();
}

fn read_all(mut socket: TcpStream, waiting: &Mutex<Waiting>) {
    let mut limit = HELLO_BYTES_MAX;
    let error = loop {
        let frame = match read(&mut socket, limit) {
            Ok(frame) => frame,
            Err(error) => break error,
        };
        limit = PAYLOAD_BYTES_MAX;
        let header = frame.header;
        let mut all = lock(waiting);
        if header.is_answer() {
            // Whoever asked may have given up.
            if let Some(asked) = all.answers.remove(&header.correlation) {
                let _ = asked.send(frame);
            }
        } else if header.stream > 0 {
            if let Some(stream) = all.streams.get(&header.stream) {
                let _ = stream.send(frame);
            }
        } else if let Err(error) = frame.body() {
            break error;
        }
    };
    end(waiting, error);
}

fn read(socket: &mut TcpStream, limit: u32) -> Result<Frame> {
    let lost = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            Error::Lost("the broker closed the connection".to_owned())
        }
        _ => Error::Lost(format!("the connection broke: {e}")),
    };
    let mut head = [0; HEADER_BYTES];
    socket.read_exact(&mut head).map_err(lost)?;
    let header = Header::decode(&head, limit).map_err(Error::malformed)?;
    let mut payload = Vec::new();
    let mut left = u64::from(header.length);
    while left > 0 {
        let piece = left.min(PIECE);
        let got = socket.take(piece).read_to_end(&mut payload).map_err(lost)? as u64;
        if got < piece {
            return Err(lost(std::io::ErrorKind::UnexpectedEof.into()));
        }
        left -= got;
    }
    Ok(Frame { header, payload })
}
