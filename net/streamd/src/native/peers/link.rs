//! One connection to another node: it is made when there is something to say, and again when it
//! broke. Nothing comes back by it but the welcome, answers to pings, and why it ends.
//!
//! Invariants: what waits to be sent is bounded, and lost with the connection; a node that does not
//! answer a ping is given up after [`SILENT`], also if the connection takes all that is sent.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use futures_lite::future;
use streamd_io::local::{Budget, Notify, Permit};
use streamd_io::{Class, Env, Part, Stream, WriteHalf};
use streamd_model::{ErrorCode, Mono, NodeId, ShardId};
use streamd_shard::{Packet, Shard};
use streamd_wire::native::{Body, FLAG_ANSWER, HELLO_BYTES_MAX, Hello, VERSION};

use super::CONNECT_MAX;
use super::book::Book;
use super::packets::encode;
use crate::conn::Life;
use crate::frames::{Frames, Shape};
use crate::native::parse;

/// How long a node may take to answer the Hello.
const WELCOME_MAX: Duration = Duration::from_secs(2);
/// Between two tries to connect, from and to.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Bytes that may wait to be sent, but for records, unless one packet is longer.
const WAITING_MAX: usize = 16 << 20;
/// Bytes of records in memory on their way to a node.
const RECORDS_MAX: usize = 16 << 20;
/// Packets up to this size share memory with others.
const SMALL: usize = 32 << 10;
/// So much is sent together.
const TOGETHER: (usize, usize) = (64, 1 << 20);
/// Between two pings.
const PING_EVERY: Duration = Duration::from_secs(1);
/// A node that answers no ping for so long is not there.
const SILENT: Duration = Duration::from_secs(4);

/// What waits to be sent.
enum Item {
    /// Packets back to back.
    Small(Vec<u8>),
    /// One with records behind it, and their memory.
    Records(Vec<u8>, Vec<Part>, Option<Permit>),
}

impl Item {
    fn bytes(&self) -> usize {
        match self {
            Item::Small(bytes) => bytes.len(),
            Item::Records(head, parts, _) => {
                head.len() + parts.iter().map(Part::len).sum::<usize>()
            }
        }
    }
}

/// The connection of a shard to a node.
pub struct Link {
    env: Env,
    shard: Weak<Shard>,
    book: Arc<Book>,
    node: NodeId,
    waiting: RefCell<VecDeque<Item>>,
    /// Bytes that wait.
    bytes: Cell<usize>,
    records: Budget,
    /// Somebody wants a connection.
    wanted: Cell<bool>,
    /// Notified when there is something to do.
    wake: Notify,
    up: Cell<bool>,
    /// Notified when it came up or broke.
    turned: Notify,
    /// The longest payload that the node takes.
    max: Cell<usize>,
    /// A ping is due.
    ping: Cell<bool>,
    heard: Cell<Mono>,
}

impl Link {
    /// Begins a link for as long as the shard lives. It connects when there is something to say.
    pub fn begin(env: &Env, shard: &Weak<Shard>, book: &Arc<Book>, node: NodeId) -> Rc<Link> {
        let link = Rc::new(Link {
            env: env.clone(),
            shard: shard.clone(),
            book: book.clone(),
            node,
            waiting: RefCell::default(),
            bytes: Cell::new(0),
            records: Budget::new(RECORDS_MAX),
            wanted: Cell::new(false),
            wake: Notify::default(),
            up: Cell::new(false),
            turned: Notify::default(),
            max: Cell::new(0),
            ping: Cell::new(false),
            heard: Cell::new(Mono(0)),
        });
        let this = link.clone();
        env.spawn(Class::Latency, this.keep()).detach();
        link
    }

    /// Sends something, or loses it.
    pub fn push(&self, packet: Packet, memory: Option<Permit>) {
        let mut head = Vec::new();
        let parts = encode(packet, &mut head);
        let mut waiting = self.waiting.borrow_mut();
        let full = self.bytes.get() + head.len() > WAITING_MAX && !waiting.is_empty();
        if full && memory.is_none() {
            return;
        }
        let before = self.bytes.get();
        match waiting.back_mut() {
            Some(Item::Small(last)) if parts.is_empty() && last.len() + head.len() <= SMALL => {
                last.extend_from_slice(&head);
                self.bytes.set(before + head.len());
            }
            _ => {
                let item = match parts.is_empty() {
                    true => Item::Small(head),
                    false => Item::Records(head, parts, memory),
                };
                self.bytes.set(before + item.bytes());
                waiting.push_back(item);
            }
        }
        drop(waiting);
        self.wake.notify_all();
    }

    /// Waits until there is room for so many bytes of records; `None` if there is no connection.
    pub async fn room(self: Rc<Self>, bytes: usize) -> Option<Permit> {
        if !self.up.get() {
            self.wanted.set(true);
            self.wake.notify_all();
            let turned = self.turned.wait();
            future::or(turned, self.after(CONNECT_MAX)).await;
        }
        if !self.up.get() {
            return None;
        }
        let broke = async {
            while self.up.get() {
                self.turned.wait().await;
            }
            None
        };
        future::or(async { Some(self.records.acquire(bytes).await) }, broke).await
    }

    async fn after(&self, long: Duration) {
        self.env.sleep(long).await;
    }

    /// Keeps the connection, for as long as the shard lives.
    async fn keep(self: Rc<Self>) {
        let mut pause = BACK_OFF.0;
        let mut complained = false;
        loop {
            while self.waiting.borrow().is_empty() && !self.wanted.take() {
                self.wake.wait().await;
            }
            let why = match self.connect().await {
                Ok((address, frames, write)) => {
                    self.tell(&format!("connected to node {} at {address}", self.node.0));
                    (pause, complained) = (BACK_OFF.0, false);
                    self.turn(true);
                    let why = self.serve(frames, write).await;
                    self.turn(false);
                    why
                }
                Err(why) => {
                    pause = (pause * 2).min(BACK_OFF.1);
                    why
                }
            };
            // What was not sent is lost: it may be of long ago when there is a connection again.
            self.waiting.borrow_mut().clear();
            self.bytes.set(0);
            if let Some(shard) = self.shard.upgrade() {
                shard.unreachable(self.node);
            }
            if self.shard.strong_count() == 0 {
                return;
            }
            if !complained {
                complained = true;
                self.tell(&format!("no connection to node {}: {why}", self.node.0));
            }
            self.after(pause).await;
        }
    }

    /// One shard talks for all.
    fn tell(&self, text: &str) {
        let shard = self.shard.upgrade();
        if shard.is_some_and(|s| s.mesh.id() == ShardId(0) && !s.mesh.is_stopping()) {
            eprintln!("cluster: {text}");
        }
    }

    fn turn(&self, up: bool) {
        self.up.set(up);
        self.turned.notify_all();
    }

    async fn connect(&self) -> Result<(SocketAddr, Frames, WriteHalf), String> {
        let mut why = "it is not known where it is".to_owned();
        for address in self.book.addresses(self.node) {
            let late = async {
                self.after(CONNECT_MAX).await;
                Err(std::io::ErrorKind::TimedOut.into())
            };
            let stream = match future::or(self.env.connect(address), late).await {
                Ok(stream) => stream,
                Err(e) => {
                    why = format!("{address}: {e}");
                    continue;
                }
            };
            let late = async {
                self.after(WELCOME_MAX).await;
                Err("no answer".to_owned())
            };
            match future::or(self.hello(stream), late).await {
                Ok((frames, write)) => return Ok((address, frames, write)),
                Err(e) => why = format!("{address}: {e}"),
            }
        }
        Err(why)
    }

    /// Says hello, and sees to it that the right node answers.
    async fn hello(&self, stream: Stream) -> Result<(Frames, WriteHalf), String> {
        let (read, mut write) = stream.split();
        let identity = self.book.identity();
        let name = identity.native_address();
        let hello = Hello {
            versions: (VERSION, VERSION),
            node: NodeId(identity.node_id),
            incarnation: identity.incarnation.0,
            directory: identity.directory.0,
            cluster: &identity.cluster_id,
            name: &name,
        };
        let mut bytes = Vec::new();
        // The partitions of a shard are, most likely, with the one of its number there.
        let shard = self.shard.upgrade().map_or(0, |s| s.mesh.id().0);
        Body::Hello(hello).encode((u32::from(shard) + 1, 1, 0), &mut bytes);
        let sent = write.send(vec![Part::Bytes(bytes.into())]).await;
        sent.map_err(|e| e.to_string())?;
        let life = Rc::new(Life::new(self.env.now()));
        let max = HELLO_BYTES_MAX as usize;
        let budget = (&Budget::new(2 * max), max);
        let mut frames = Frames::new(read, &self.env, Shape::Native, budget, &life);
        let Ok(Some((bytes, _permits))) = frames.next().await else {
            return Err("it ended the connection".to_owned());
        };
        let (_, body) = parse(&bytes).map_err(|_| "no answer of a node".to_owned())?;
        let welcome = match body {
            Body::Welcome(welcome) => welcome,
            body => return Err(self.refused(&body)),
        };
        if welcome.node != self.node || welcome.cluster != identity.cluster_id {
            return Err(format!(
                "node {} of cluster {:?} is there",
                welcome.node.0, welcome.cluster
            ));
        }
        self.max.set(welcome.payload_bytes_max as usize);
        self.heard.set(self.env.now());
        Ok((frames, write))
    }

    /// Why a node does not take this one. If it knows better who this one is, that is the end.
    fn refused(&self, body: &Body<'_>) -> String {
        let Body::Error(failure) = body else {
            return "no answer of a node".to_owned();
        };
        // It has compared the clusters before.
        if failure.code == ErrorCode::InvalidRegistration.code()
            && let Some(shard) = self.shard.upgrade()
        {
            shard.fail(failure.text.to_owned());
        }
        failure.text.to_owned()
    }

    /// Sends until the connection breaks; says why it did.
    async fn serve(&self, mut frames: Frames, write: WriteHalf) -> String {
        let ends = future::or(self.listen(&mut frames), self.watch());
        future::or(self.send_all(write), ends).await
    }

    async fn send_all(&self, mut write: WriteHalf) -> String {
        loop {
            let (parts, permits) = self.take();
            if parts.is_empty() {
                self.wake.wait().await;
                continue;
            }
            if let Err(e) = write.send(parts).await {
                return e.to_string();
            }
            drop(permits);
        }
    }

    /// What is to be sent together.
    fn take(&self) -> (Vec<Part>, Vec<Permit>) {
        let (mut parts, mut permits, mut bytes) = (Vec::new(), Vec::new(), 0);
        if self.ping.take() {
            let mut ping = Vec::new();
            Body::Ping.encode((0, 1, 0), &mut ping);
            parts.push(Part::Bytes(ping.into()));
        }
        let mut waiting = self.waiting.borrow_mut();
        while parts.len() < TOGETHER.0
            && bytes < TOGETHER.1
            && let Some(item) = waiting.pop_front()
        {
            let more = item.bytes();
            self.bytes.set(self.bytes.get() - more);
            if more > self.max.get() {
                self.tell(&format!(
                    "{more} bytes for node {} are not sent: it takes {} at once \
                     (socket.request.max.bytes)",
                    self.node.0,
                    self.max.get()
                ));
                continue;
            }
            bytes += more;
            match item {
                Item::Small(bytes) => parts.push(Part::Bytes(bytes.into())),
                Item::Records(head, records, permit) => {
                    parts.push(Part::Bytes(head.into()));
                    parts.extend(records);
                    permits.extend(permit);
                }
            }
        }
        (parts, permits)
    }

    /// Hears answers to pings, until something else comes.
    async fn listen(&self, frames: &mut Frames) -> String {
        loop {
            let Ok(Some((bytes, _permits))) = frames.next().await else {
                return "it ended the connection".to_owned();
            };
            match parse(&bytes) {
                Ok((header, Body::Ping)) if header.flags & FLAG_ANSWER != 0 => {
                    self.heard.set(self.env.now());
                }
                Ok((_, body)) => return self.refused(&body),
                Err(_) => return "no answer of a node".to_owned(),
            }
        }
    }

    /// Asks whether the node is there, until it does not answer.
    async fn watch(&self) -> String {
        loop {
            self.ping.set(true);
            self.wake.notify_all();
            self.after(PING_EVERY).await;
            if self.env.now() - self.heard.get() > SILENT {
                return format!("it said nothing for {SILENT:?}");
            }
        }
    }
}
