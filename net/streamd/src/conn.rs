//! One connection: frames in, replies out in the order of the requests, memory reserved before a
//! body is read.
//!
//! Produce requests overlap: each is accepted in order and its reply waits in the queue until it
//! is durable, while the next is read. Any other request waits for those before it, as with Kafka,
//! where a connection has one request under way.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future;
use streamd_io::local::{Notify, Permit};
use streamd_io::{AlignedBuf, Class, Env, Part, ReadHalf, Stream, WriteHalf};
use streamd_model::Mono;
use streamd_wire::kafka::{ApiKey, Frame};

use crate::broker::Broker;
use crate::kafka;

/// Read so much at once when the next frame's size is not known: small requests come with one
/// system call, and of large ones little is copied.
const PEEK: usize = 2048;
/// Frames above this size are read into pooled memory.
const SMALL: usize = 4096;
/// The first piece of memory for a large frame. A request with one batch of the usual size fits.
const FIRST_ALLOC: usize = 128 << 10;
/// The second one, when the first is full. A request of `max.request.size` fits; after that each
/// piece is twice the one before.
const SECOND_ALLOC: usize = 2 << 20;
/// How long a frame waits for memory before its connection is given up.
const RESERVE_WAIT: Duration = Duration::from_secs(10);
/// How often a shard looks for dead connections.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// A connection that sends nothing for so long in the middle of a frame is closed.
const STUCK: Duration = Duration::from_secs(30);
/// Replies are sent together up to so many parts.
const TOGETHER_MAX: usize = 64;
/// Replies that may wait in one connection.
const QUEUE_MAX: usize = 256;

/// What is to be sent for one request; nothing for acks=0.
pub type Reply = Vec<Part>;

/// A reply that is not known yet. `None` closes the connection.
pub type LaterReply = Pin<Box<dyn Future<Output = Option<Reply>>>>;

struct Queued {
    reply: LaterReply,
    permits: Vec<Permit>,
}

/// The replies of a connection, in order.
#[derive(Default)]
struct Queue {
    waiting: RefCell<VecDeque<Queued>>,
    /// Replies that wait or are being sent.
    open: Cell<usize>,
    ended: Cell<bool>,
    changed: Notify,
}

impl Queue {
    fn push(&self, reply: LaterReply, permits: Vec<Permit>) {
        self.waiting
            .borrow_mut()
            .push_back(Queued { reply, permits });
        self.open.set(self.open.get() + 1);
        self.changed.notify_all();
    }

    fn end(&self) {
        self.ended.set(true);
        self.changed.notify_all();
    }

    /// Waits until at most `n` replies are open; false when the connection has ended.
    async fn at_most(&self, n: usize) -> bool {
        while self.open.get() > n && !self.ended.get() {
            self.changed.wait().await;
        }
        !self.ended.get()
    }

    /// Sends replies until the connection ends.
    async fn send_all(&self, mut stream: WriteHalf, life: &Life, env: &Env) {
        while !self.ended.get() {
            let next = self.waiting.borrow_mut().pop_front();
            let Some(queued) = next else {
                self.changed.wait().await;
                continue;
            };
            life.busy.set(true);
            let parts = queued.reply.await;
            life.busy.set(false);
            let Some(mut parts) = parts else { break };
            let mut sent = vec![queued.permits];
            let more = self.take_known(&mut parts, &mut sent).await;
            if !parts.is_empty() && stream.send(parts).await.is_err() {
                break;
            }
            life.last.set(env.now());
            self.open.set(self.open.get() - sent.len());
            self.changed.notify_all();
            if !more {
                break;
            }
        }
        self.end();
        stream.shutdown();
    }

    /// Adds the replies that are known by now, in order: what became durable together is answered
    /// with one system call. False when one of them closes the connection.
    async fn take_known(&self, parts: &mut Reply, sent: &mut Vec<Vec<Permit>>) -> bool {
        while parts.len() < TOGETHER_MAX {
            let next = self.waiting.borrow_mut().pop_front();
            let Some(mut queued) = next else { return true };
            match future::poll_once(&mut queued.reply).await {
                None => {
                    self.waiting.borrow_mut().push_front(queued);
                    return true;
                }
                Some(None) => return false,
                Some(Some(reply)) => {
                    parts.extend(reply);
                    sent.push(queued.permits);
                }
            }
        }
        true
    }
}

/// What the sweeper of a shard looks at.
pub struct Life {
    /// When bytes last came or went.
    last: Cell<Mono>,
    /// Whether a frame is under way, begun but not complete.
    partial: Cell<bool>,
    /// Whether a request is being worked on.
    busy: Cell<bool>,
    kill: Notify,
}

/// Ends the connections of this shard that have nothing to say: those that stopped in the middle of
/// a frame, and those that were idle too long (`connections.max.idle.ms`). For ever.
pub async fn sweep(broker: Rc<Broker>) {
    let env = broker.shard.env.clone();
    loop {
        env.sleep(SWEEP_EVERY).await;
        let now = env.now();
        let idle = broker.shard.image().broker().connections.idle_ms;
        let idle = idle.map_or(Duration::MAX, Duration::from_millis);
        for life in broker.lives.borrow().values() {
            let limit = if life.partial.get() { STUCK } else { idle };
            if !life.busy.get() && now - life.last.get() > limit {
                life.kill.notify_all();
            }
        }
    }
}

/// Serves a connection until either side ends it.
pub async fn serve(broker: Rc<Broker>, stream: Stream) {
    // As Kafka writes the hosts of members.
    let host = stream.peer_addr();
    let host = host.map_or(String::new(), |addr| format!("/{}", addr.ip()));
    let (read, write) = stream.split();
    let env = broker.shard.env.clone();
    let life = Rc::new(Life {
        last: Cell::new(env.now()),
        partial: Cell::new(false),
        busy: Cell::new(false),
        kill: Notify::new(),
    });
    let key = broker.register(life.clone());
    let queue = Rc::new(Queue::default());
    let sender = {
        let (queue, life, env_) = (queue.clone(), life.clone(), env.clone());
        let send = async move { queue.send_all(write, &life, &env_).await };
        env.spawn(Class::Latency, send)
    };
    let mut frames = Frames {
        stream: read,
        buf: Vec::new(),
        last: 0,
        key,
        broker: broker.clone(),
        life: life.clone(),
        host,
    };
    let served = async {
        if let Err(e) = read_loop(&broker, &mut frames, &queue).await {
            broker.complain(&e);
        }
        // What was accepted is still answered, unless the peer is gone.
        queue.at_most(0).await;
        queue.end();
        sender.await;
    };
    future::or(served, life.kill.wait()).await;
    queue.end();
    broker.lives.borrow_mut().remove(&key);
    kafka::share::disconnected(&broker, key);
}

/// Why a connection is closed from our side.
#[derive(Debug)]
pub enum Hangup {
    /// The peer went away, or the system failed: nobody is there to be told.
    Gone,
    /// What it sent is no request.
    Bad(String),
}

async fn read_loop(
    broker: &Rc<Broker>,
    frames: &mut Frames,
    queue: &Rc<Queue>,
) -> Result<(), Hangup> {
    while let Some((bytes, permits)) = frames.next().await? {
        if !queue.at_most(QUEUE_MAX).await {
            return Ok(());
        }
        let frame = match Frame::parse(&bytes) {
            Ok(frame) => frame,
            Err(e) => {
                let reply = kafka::refuse(&e).ok_or_else(|| Hangup::Bad(e.to_string()))?;
                queue.push(Box::pin(async { Some(reply) }), permits);
                continue;
            }
        };
        let header = frame.header;
        if header.api == ApiKey::Produce {
            let accepted = kafka::produce::accept(broker, bytes.clone())
                .await
                .map_err(Hangup::Bad)?;
            if accepted.answered {
                queue.push(accepted.reply, permits);
            } else {
                // acks=0: nobody waits, but a failure still ends the connection, as with Kafka.
                let queue = queue.clone();
                let done = async move {
                    if accepted.reply.await.is_none() {
                        queue.end();
                    }
                    drop(permits);
                };
                broker.shard.env.spawn(Class::Latency, done).detach();
            }
            continue;
        }
        if !queue.at_most(0).await {
            return Ok(());
        }
        frames.life.busy.set(true);
        let answer = async {
            let answer = kafka::answer(broker, (&frames.host, frames.key), &frame);
            answer.await.map_err(Hangup::Bad)
        };
        let reply = if kafka::waits_for_others(header.api) {
            let gone = async {
                frames.stream.closed().await;
                Err(Hangup::Gone)
            };
            future::or(answer, gone).await?
        } else {
            answer.await?
        };
        frames.life.busy.set(false);
        queue.push(Box::pin(async { Some(reply) }), permits);
    }
    Ok(())
}

/// Cuts the incoming bytes into frames.
struct Frames {
    stream: ReadHalf,
    /// Bytes that were read but belong to the next frame.
    buf: Vec<u8>,
    /// Bytes of the last frame with its length, if it was a large one: the next one may be like it.
    last: usize,
    broker: Rc<Broker>,
    life: Rc<Life>,
    /// The connection's key.
    key: u64,
    /// The client's address, for the members of groups.
    host: String,
}

/// A frame without its length, and the memory that is reserved for it.
type Reserved = (Bytes, Vec<Permit>);

impl Frames {
    /// The next frame. `None` at the end of the stream.
    async fn next(&mut self) -> Result<Option<Reserved>, Hangup> {
        self.life.partial.set(!self.buf.is_empty());
        if self.buf.is_empty() && self.last > 0 {
            return self.like_the_last().await;
        }
        if !self.fill(4).await? {
            return Ok(None);
        }
        let len = self.length(&self.buf)?;
        let mut permits = vec![self.reserve(len.min(FIRST_ALLOC)).await?];
        let frame = if len <= SMALL {
            if !self.fill(4 + len).await? {
                return Ok(None);
            }
            let rest = self.buf.split_off(4 + len);
            let mut frame = std::mem::replace(&mut self.buf, rest);
            frame.drain(..4);
            Bytes::from(frame)
        } else {
            let mut body = self.broker.shard.env.alloc(4 + len.min(FIRST_ALLOC));
            let have = self.buf.len().min(4 + len);
            body[..have].copy_from_slice(&self.buf[..have]);
            self.buf.drain(..have);
            match self.large(4 + len, (body, have), &mut permits).await? {
                Some(frame) => frame,
                None => return Ok(None),
            }
        };
        self.life.partial.set(false);
        Ok(Some((frame, permits)))
    }

    /// A frame from a peer whose last one was large: with luck all of it comes with one system
    /// call, to where it stays. Memory is got when bytes are there.
    async fn like_the_last(&mut self) -> Result<Option<Reserved>, Hangup> {
        self.stream.readable().await.map_err(|_| Hangup::Gone)?;
        let want = std::mem::take(&mut self.last).min(SECOND_ALLOC);
        let mut permits = vec![self.reserve(want).await?];
        let mut body = self.broker.shard.env.alloc(want);
        let mut at = 0;
        while at < 4 {
            match self.read(|buf| &mut buf[at..want], &mut body).await? {
                0 => return Ok(None),
                n => at += n,
            }
        }
        let total = 4 + self.length(&body)?;
        if total > at {
            let frame = self.large(total, (body, at), &mut permits).await?;
            self.life.partial.set(false);
            return Ok(frame.map(|frame| (frame, permits)));
        }
        self.buf.extend_from_slice(&body[total..at]);
        self.last = if total > SMALL { total } else { 0 };
        self.life.partial.set(false);
        Ok(Some((body.freeze().slice(4..total), permits)))
    }

    /// The length that a frame begins with, bytes.
    fn length(&self, frame: &[u8]) -> Result<usize, Hangup> {
        let length = i32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]);
        let max = self.broker.request_bytes_max;
        match usize::try_from(length) {
            Ok(len) if len > 0 && len <= max => Ok(len),
            _ => Err(Hangup::Bad(format!(
                "a frame of {length} bytes; 1 to {max} are allowed (socket.request.max.bytes)"
            ))),
        }
    }

    /// Reads the rest of a large frame, of which `at` bytes, with its length, are in `body`. Memory
    /// is reserved, and got, as the bytes come: a peer that announces much and sends little holds
    /// little.
    async fn large(
        &mut self,
        total: usize,
        (mut body, mut at): (AlignedBuf, usize),
        permits: &mut Vec<Permit>,
    ) -> Result<Option<Bytes>, Hangup> {
        while at < total {
            if at == body.len() {
                let size = total.min(SECOND_ALLOC.max(at * 2));
                permits.push(self.reserve(size - at).await?);
                let mut larger = self.broker.shard.env.alloc(size);
                larger[..at].copy_from_slice(&body);
                body = larger;
            }
            let end = total.min(body.len());
            let n = self.read(|buf| &mut buf[at..end], &mut body).await?;
            if n == 0 {
                return Ok(None);
            }
            at += n;
        }
        self.last = total;
        Ok(Some(body.freeze().slice(4..total)))
    }

    async fn read(
        &mut self,
        part: impl Fn(&mut [u8]) -> &mut [u8],
        whole: &mut [u8],
    ) -> Result<usize, Hangup> {
        let n = self
            .stream
            .read(part(whole))
            .await
            .map_err(|_| Hangup::Gone)?;
        self.life.last.set(self.broker.shard.env.now());
        self.life.partial.set(true);
        Ok(n)
    }

    /// Waits for memory; gives up when there is none for long, since those who hold it may wait
    /// for more themselves.
    async fn reserve(&self, bytes: usize) -> Result<Permit, Hangup> {
        let budget = &self.broker.requests;
        if let Some(permit) = budget.try_acquire(bytes) {
            return Ok(permit);
        }
        let late = async {
            self.broker.shard.env.sleep(RESERVE_WAIT).await;
            Err(Hangup::Bad(format!(
                "no memory for {bytes} bytes of a request for a long time"
            )))
        };
        future::or(async { Ok(budget.acquire(bytes).await) }, late).await
    }

    /// Reads until `len` bytes are there; false when the stream ends before.
    async fn fill(&mut self, len: usize) -> Result<bool, Hangup> {
        while self.buf.len() < len {
            let mut buf = std::mem::take(&mut self.buf);
            let have = buf.len();
            buf.resize(have.max(len).max(PEEK), 0);
            let n = self.read(|buf| &mut buf[have..], &mut buf).await?;
            buf.truncate(have + n);
            self.buf = buf;
            if n == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
