//! One connection: frames in, replies out in the order of the requests.
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

use futures_lite::future;
use streamd_io::local::{Notify, Permit};
use streamd_io::{Class, Env, Part, Stream, WriteHalf};
use streamd_model::Mono;
use streamd_wire::kafka::{ApiKey, Frame};
use streamd_wire::native::Malformed;

use crate::broker::Broker;
use crate::frames::{Frames, Shape};
use crate::kafka;

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
    pub last: Cell<Mono>,
    /// Whether a frame is under way, begun but not complete.
    pub partial: Cell<bool>,
    /// Whether a request is being worked on.
    busy: Cell<bool>,
    pub kill: Notify,
}

impl Life {
    pub fn new(now: Mono) -> Life {
        Life {
            last: Cell::new(now),
            partial: Cell::new(false),
            busy: Cell::new(false),
            kill: Notify::new(),
        }
    }
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
    let life = Rc::new(Life::new(env.now()));
    let key = broker.register(life.clone());
    let queue = Rc::new(Queue::default());
    let sender = {
        let (queue, life, env_) = (queue.clone(), life.clone(), env.clone());
        let send = async move { queue.send_all(write, &life, &env_).await };
        env.spawn(Class::Latency, send)
    };
    let budget = (&broker.requests, broker.request_bytes_max);
    let mut frames = Frames::new(read, &env, Shape::Kafka, budget, &life);
    let served = async {
        if let Err(e) = read_loop(&broker, (&host, key), &mut frames, &queue).await {
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
    /// What it sent is no frame of the native protocol.
    Malformed(Malformed),
}

/// Answers the frames of `peer`: its address as Kafka writes it, and the connection's key.
async fn read_loop(
    broker: &Rc<Broker>,
    peer: (&str, u64),
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
            let answer = kafka::answer(broker, peer, &frame);
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
