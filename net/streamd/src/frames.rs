//! Cuts the bytes of a connection into frames. Those of Kafka's protocol are four bytes of length,
//! big endian, and as many bytes as that says; those of the native one have a header.
//!
//! Memory is reserved before it is got, and got as the bytes come: a peer that announces much and
//! sends little holds little. What was read beyond a frame is kept for the next ones, and is within
//! the budget too where it can be much.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future;
use streamd_io::local::{Budget, Permit};
use streamd_io::{AlignedBuf, Env, ReadHalf, class_len};
use streamd_wire::native::{HEADER_BYTES, Header};

use crate::conn::{Hangup, Life};

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

/// A frame, and the memory that is reserved for it.
pub type Reserved = (Bytes, Vec<Permit>);

/// How frames begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// With four bytes of length, which are not handed on.
    Kafka,
    /// With a header, which is.
    Native,
}

impl Shape {
    /// The bytes that say how long a frame is.
    fn head(self) -> usize {
        match self {
            Shape::Kafka => 4,
            Shape::Native => HEADER_BYTES,
        }
    }

    /// Where what is handed on begins.
    fn begin(self) -> usize {
        match self {
            Shape::Kafka => 4,
            Shape::Native => 0,
        }
    }

    /// The bytes behind the head that `frame` begins with; `max` are taken.
    fn length(self, frame: &[u8], max: usize) -> Result<usize, Hangup> {
        match self {
            Shape::Kafka => {
                let length = i32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]);
                match usize::try_from(length) {
                    Ok(len) if len > 0 && len <= max => Ok(len),
                    _ => Err(Hangup::Bad(format!(
                        "a frame of {length} bytes; 1 to {max} are allowed \
                         (socket.request.max.bytes)"
                    ))),
                }
            }
            Shape::Native => {
                let head = frame.first_chunk().ok_or(Hangup::Gone)?;
                let max = u32::try_from(max).unwrap_or(u32::MAX);
                let header = Header::decode(head, max).map_err(Hangup::Malformed)?;
                Ok(header.length as usize)
            }
        }
    }
}

/// The incoming half of a connection.
pub struct Frames {
    pub stream: ReadHalf,
    rest: Rest,
    /// Bytes of the last frame with its length, if it was a large one: the next one may be like it.
    last: usize,
    shape: Shape,
    /// The largest frame, bytes.
    max: usize,
    budget: Budget,
    env: Env,
    pub life: Rc<Life>,
}

/// Bytes that were read and belong to the next frames. Taking a frame moves a mark, not the bytes:
/// many small ones may lie behind a large one.
#[derive(Default)]
struct Rest {
    bytes: Vec<u8>,
    at: usize,
    /// What is reserved for more than a peek.
    permit: Option<Permit>,
}

impl Rest {
    fn left(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    fn take(&mut self, n: usize) {
        self.at += n;
        if self.at == self.bytes.len() {
            self.bytes.clear();
            self.at = 0;
            self.give_back();
        }
    }

    /// Moves what is left to the front, for more to come behind it. Only what is shorter than a
    /// small frame is moved, once for each read.
    fn move_to_front(&mut self) {
        self.bytes.drain(..self.at);
        self.at = 0;
        self.give_back();
    }

    fn give_back(&mut self) {
        if self.permit.is_some() {
            self.bytes.shrink_to_fit();
            self.permit = None;
        }
    }
}

impl Frames {
    /// Reads frames of at most `max` bytes, their memory within `budget`.
    pub fn new(
        stream: ReadHalf,
        env: &Env,
        shape: Shape,
        (budget, max): (&Budget, usize),
        life: &Rc<Life>,
    ) -> Self {
        Frames {
            stream,
            rest: Rest::default(),
            last: 0,
            shape,
            max,
            budget: budget.clone(),
            env: env.clone(),
            life: life.clone(),
        }
    }

    /// Takes frames of up to so many bytes from now on.
    pub fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// The next frame. `None` at the end of the stream.
    pub async fn next(&mut self) -> Result<Option<Reserved>, Hangup> {
        self.life.partial.set(!self.rest.left().is_empty());
        if self.rest.left().is_empty() && self.last > 0 {
            return self.like_the_last().await;
        }
        let (head, begin) = (self.shape.head(), self.shape.begin());
        if !self.fill(head).await? {
            return Ok(None);
        }
        let len = self.shape.length(self.rest.left(), self.max)?;
        if len <= SMALL {
            let permit = self.reserve(head - begin + len).await?;
            if !self.fill(head + len).await? {
                return Ok(None);
            }
            let frame = Bytes::copy_from_slice(&self.rest.left()[begin..head + len]);
            self.rest.take(head + len);
            self.life.partial.set(false);
            return Ok(Some((frame, vec![permit])));
        }
        // Of a frame behind a larger one, more than the first piece may have come already.
        let have = self.rest.left().len().min(head + len);
        let size = have.max(head + len.min(FIRST_ALLOC));
        let permits = vec![self.reserve(class_len(size)).await?];
        let mut body = self.env.alloc(size);
        body[..have].copy_from_slice(&self.rest.left()[..have]);
        self.rest.take(have);
        self.large(head + len, (body, have), permits).await
    }

    /// A frame from a peer whose last one was large: with luck all of it comes with one system
    /// call, to where it stays. Memory is got when bytes are there.
    async fn like_the_last(&mut self) -> Result<Option<Reserved>, Hangup> {
        self.stream.readable().await.map_err(|_| Hangup::Gone)?;
        let want = std::mem::take(&mut self.last).min(SECOND_ALLOC);
        let permits = vec![self.reserve(class_len(want)).await?];
        let mut body = self.env.alloc(want);
        let mut at = 0;
        let head = self.shape.head();
        while at < head {
            match self.read(&mut body[at..want]).await? {
                0 => return Ok(None),
                n => at += n,
            }
        }
        let total = head + self.shape.length(&body, self.max)?;
        if total > at {
            return self.large(total, (body, at), permits).await;
        }
        if at - total > PEEK {
            self.rest.permit = Some(self.reserve(at - total).await?);
        }
        self.rest.bytes.extend_from_slice(&body[total..at]);
        self.last = if total > SMALL { total } else { 0 };
        self.life.partial.set(false);
        Ok(Some((
            body.freeze().slice(self.shape.begin()..total),
            permits,
        )))
    }

    /// Reads the rest of a large frame, of which `at` bytes, with its length, are in `body`.
    async fn large(
        &mut self,
        total: usize,
        (mut body, mut at): (AlignedBuf, usize),
        mut permits: Vec<Permit>,
    ) -> Result<Option<Reserved>, Hangup> {
        while at < total {
            if at == body.len() {
                let size = total.min(SECOND_ALLOC.max(at * 2));
                permits.push(self.reserve(class_len(size) - body.len()).await?);
                let mut larger = self.env.alloc(size);
                larger[..at].copy_from_slice(&body);
                body = larger;
            }
            let end = total.min(body.len());
            let n = self.read(&mut body[at..end]).await?;
            if n == 0 {
                return Ok(None);
            }
            at += n;
        }
        self.last = total;
        self.life.partial.set(false);
        Ok(Some((
            body.freeze().slice(self.shape.begin()..total),
            permits,
        )))
    }

    async fn read(&mut self, into: &mut [u8]) -> Result<usize, Hangup> {
        let n = self.stream.read(into).await.map_err(|_| Hangup::Gone)?;
        self.life.last.set(self.env.now());
        self.life.partial.set(true);
        Ok(n)
    }

    /// Waits for memory; gives up when there is none for long, since those who hold it may wait
    /// for more themselves.
    async fn reserve(&self, bytes: usize) -> Result<Permit, Hangup> {
        if let Some(permit) = self.budget.try_acquire(bytes) {
            return Ok(permit);
        }
        let late = async {
            self.env.sleep(RESERVE_WAIT).await;
            Err(Hangup::Bad(format!(
                "no memory for {bytes} bytes of a request for a long time"
            )))
        };
        future::or(async { Ok(self.budget.acquire(bytes).await) }, late).await
    }

    /// Reads until `len` bytes, of a small frame, are left; false when the stream ends before.
    async fn fill(&mut self, len: usize) -> Result<bool, Hangup> {
        while self.rest.left().len() < len {
            self.rest.move_to_front();
            let mut bytes = std::mem::take(&mut self.rest.bytes);
            let have = bytes.len();
            bytes.resize(len.max(PEEK), 0);
            let n = self.read(&mut bytes[have..]).await?;
            bytes.truncate(have + n);
            self.rest.bytes = bytes;
            if n == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use streamd_io::sim::{Sim, SimOptions, each_seed};
    use streamd_io::{Class, Part, Stream};
    use streamd_wire::native::Op;

    use super::*;

    const MAX: usize = 5 << 20;
    const MEMORY: usize = 16 << 20;

    fn below(env: &Env, n: u64) -> u64 {
        env.random_u64() % n
    }

    /// Lengths of frames, of all the sizes that are read in ways of their own, and what one is
    /// filled with.
    fn frames(env: &Env) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        for i in 0..below(env, 60) {
            let most = [8, SMALL, SMALL + 8, 2 * FIRST_ALLOC, SECOND_ALLOC, MAX];
            let most = most[below(env, most.len() as u64) as usize] as u64;
            let len = 1 + below(env, most) as usize;
            // A length that no power of two divides: a shifted frame is another one.
            let mut frame: Vec<u8> = (0..251).map(|at: u8| at ^ i as u8).collect();
            frame = frame.repeat(len.div_ceil(frame.len()));
            frame.truncate(len);
            frames.push(frame);
        }
        frames
    }

    /// A frame of either shape around these bytes.
    fn wrap(shape: Shape, payload: &[u8]) -> Vec<u8> {
        let mut bytes = match shape {
            Shape::Kafka => (payload.len() as i32).to_be_bytes().to_vec(),
            Shape::Native => {
                let header = Header {
                    op: Op::Append,
                    flags: 0,
                    stream: 0,
                    correlation: 7,
                    length: payload.len() as u32,
                };
                header.encode().to_vec()
            }
        };
        bytes.extend(payload);
        bytes
    }

    async fn cut(env: Env, shape: Shape) {
        let addr = SocketAddr::from(([127, 0, 0, 1], 9092));
        let listener = env.listen(addr).await.unwrap();
        let sent = frames(&env);
        let expected = sent.clone();
        let sender = {
            let env_ = env.clone();
            env.spawn(Class::Latency, async move {
                let (_read, mut write) = env_.connect(addr).await.unwrap().split();
                for frame in sent {
                    let bytes = wrap(shape, &frame);
                    write.send(vec![Part::Bytes(bytes.into())]).await.unwrap();
                }
            })
        };
        let stream: Stream = env.adopt(listener.accept().await.unwrap()).unwrap();
        let budget = Budget::new(MEMORY);
        let life = Rc::new(Life::new(env.now()));
        let mut frames = Frames::new(stream.split().0, &env, shape, (&budget, MAX), &life);
        for (i, wanted) in expected.iter().enumerate() {
            // Others come while this one is not looked for.
            env.sleep(Duration::from_millis(below(&env, 3))).await;
            let (frame, permits) = frames.next().await.unwrap().unwrap();
            let wanted = &wrap(shape, wanted)[shape.begin()..];
            assert!(frame == wanted, "frame {i} of {} bytes", wanted.len());
            let held: usize = permits.iter().map(Permit::bytes).sum();
            assert!(held >= frame.len(), "{held} for {}", frame.len());
        }
        assert!(frames.next().await.unwrap().is_none());
        drop(frames);
        assert_eq!(budget.used(), 0);
        sender.await;
    }

    #[test]
    fn frames_come_as_they_were_sent_however_the_bytes_come() {
        for shape in [Shape::Kafka, Shape::Native] {
            each_seed(40, |seed| {
                Sim::new(seed, SimOptions::default()).run(move |env| cut(env, shape));
            });
        }
    }
}
