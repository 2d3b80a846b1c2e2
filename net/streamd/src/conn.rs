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

use bytes::Bytes;
use streamd_io::local::{Notify, Permit};
use streamd_io::{Class, Part, ReadHalf, Stream, WriteHalf};
use streamd_wire::kafka::{ApiKey, Frame};

use crate::broker::Broker;
use crate::kafka;

/// Read so much at once when the next frame's size is not known: small requests come with one
/// system call, and of large ones little is copied.
const PEEK: usize = 2048;
/// Frames above this size are read into pooled memory.
const SMALL: usize = 4096;
/// Replies that may wait in one connection.
const QUEUE_MAX: usize = 256;

/// What is to be sent for one request; nothing for acks=0.
pub type Reply = Vec<Part>;

/// A reply that is not known yet. `None` closes the connection.
pub type LaterReply = Pin<Box<dyn Future<Output = Option<Reply>>>>;

struct Queued {
    reply: LaterReply,
    _permit: Permit,
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
    fn push(&self, reply: LaterReply, permit: Permit) {
        self.waiting.borrow_mut().push_back(Queued {
            reply,
            _permit: permit,
        });
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
    async fn send_all(&self, mut stream: WriteHalf) {
        while !self.ended.get() {
            let next = self.waiting.borrow_mut().pop_front();
            let Some(queued) = next else {
                self.changed.wait().await;
                continue;
            };
            let Some(parts) = queued.reply.await else {
                break;
            };
            if !parts.is_empty() && stream.send(parts).await.is_err() {
                break;
            }
            self.open.set(self.open.get() - 1);
            self.changed.notify_all();
        }
        self.end();
        stream.shutdown();
    }
}

/// Serves a connection until either side ends it.
pub async fn serve(broker: Rc<Broker>, stream: Stream) {
    let (read, write) = stream.split();
    let queue = Rc::new(Queue::default());
    let sender = {
        let queue = queue.clone();
        broker
            .shard
            .env
            .spawn(Class::Latency, async move { queue.send_all(write).await })
    };
    let mut frames = Frames {
        stream: read,
        buf: Vec::new(),
        broker: broker.clone(),
    };
    if let Err(e) = read_loop(&broker, &mut frames, &queue).await {
        broker.complain(&e);
    }
    // What was accepted is still answered, unless the peer is gone.
    queue.at_most(0).await;
    queue.end();
    sender.await;
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
    while let Some((bytes, permit)) = frames.next().await? {
        if !queue.at_most(QUEUE_MAX).await {
            return Ok(());
        }
        let frame = match Frame::parse(&bytes) {
            Ok(frame) => frame,
            Err(e) => {
                let reply = kafka::refuse(&e).ok_or_else(|| Hangup::Bad(e.to_string()))?;
                queue.push(Box::pin(async { Some(reply) }), permit);
                continue;
            }
        };
        let header = frame.header;
        if header.api == ApiKey::Produce {
            let accepted = kafka::produce::accept(broker, bytes.clone())
                .await
                .map_err(Hangup::Bad)?;
            if accepted.answered {
                queue.push(accepted.reply, permit);
            } else {
                // acks=0: nobody waits, but a failure still ends the connection, as with Kafka.
                let queue = queue.clone();
                let done = async move {
                    if accepted.reply.await.is_none() {
                        queue.end();
                    }
                    drop(permit);
                };
                broker.shard.env.spawn(Class::Latency, done).detach();
            }
            continue;
        }
        if !queue.at_most(0).await {
            return Ok(());
        }
        let reply = kafka::answer(broker, &frame).await.map_err(Hangup::Bad)?;
        queue.push(Box::pin(async { Some(reply) }), permit);
    }
    Ok(())
}

/// Cuts the incoming bytes into frames.
struct Frames {
    stream: ReadHalf,
    /// Bytes that were read but belong to the next frame.
    buf: Vec<u8>,
    broker: Rc<Broker>,
}

impl Frames {
    /// The next frame without its length, and the memory that is reserved for it. `None` at the
    /// end of the stream.
    async fn next(&mut self) -> Result<Option<(Bytes, Permit)>, Hangup> {
        if !self.fill(4).await? {
            return Ok(None);
        }
        let length = i32::from_be_bytes([self.buf[0], self.buf[1], self.buf[2], self.buf[3]]);
        let max = self.broker.request_bytes_max;
        let len = match usize::try_from(length) {
            Ok(len) if len > 0 && len <= max => len,
            _ => {
                return Err(Hangup::Bad(format!(
                    "a frame of {length} bytes; 1 to {max} are allowed (socket.request.max.bytes)"
                )));
            }
        };
        let permit = self.broker.requests.acquire(len).await;
        if len <= SMALL {
            if !self.fill(4 + len).await? {
                return Ok(None);
            }
            let rest = self.buf.split_off(4 + len);
            let mut frame = std::mem::replace(&mut self.buf, rest);
            frame.drain(..4);
            return Ok(Some((Bytes::from(frame), permit)));
        }
        let mut body = self.broker.shard.env.alloc(len);
        let have = (self.buf.len() - 4).min(len);
        body[..have].copy_from_slice(&self.buf[4..4 + have]);
        self.buf.drain(..4 + have);
        let mut at = have;
        while at < len {
            let n = self
                .stream
                .read(&mut body[at..len])
                .await
                .map_err(|_| Hangup::Gone)?;
            if n == 0 {
                return Ok(None);
            }
            at += n;
        }
        Ok(Some((body.freeze().slice(..len), permit)))
    }

    /// Reads until `len` bytes are there; false when the stream ends before.
    async fn fill(&mut self, len: usize) -> Result<bool, Hangup> {
        while self.buf.len() < len {
            let have = self.buf.len();
            self.buf.resize(have.max(len).max(PEEK), 0);
            let n = self
                .stream
                .read(&mut self.buf[have..])
                .await
                .map_err(|_| Hangup::Gone)?;
            self.buf.truncate(have + n);
            if n == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
