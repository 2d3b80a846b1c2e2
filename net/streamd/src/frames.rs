//! Cuts the bytes of a connection into frames: four bytes of length, big endian, and as many bytes
//! as that says.
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

/// A frame without its length, and the memory that is reserved for it.
pub type Reserved = (Bytes, Vec<Permit>);

/// The incoming half of a connection.
pub struct Frames {
    pub stream: ReadHalf,
    rest: Rest,
    /// Bytes of the last frame with its length, if it was a large one: the next one may be like it.
    last: usize,
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
        (budget, max): (&Budget, usize),
        life: &Rc<Life>,
    ) -> Self {
        Frames {
            stream,
            rest: Rest::default(),
            last: 0,
            max,
            budget: budget.clone(),
            env: env.clone(),
            life: life.clone(),
        }
    }

    /// The next frame. `None` at the end of the stream.
    pub async fn next(&mut self) -> Result<Option<Reserved>, Hangup> {
        self.life.partial.set(!self.rest.left().is_empty());
        if self.rest.left().is_empty() && self.last > 0 {
            return self.like_the_last().await;
        }
        if !self.fill(4).await? {
            return Ok(None);
        }
        let len = self.length(self.rest.left())?;
        if len <= SMALL {
            let permit = self.reserve(len).await?;
            if !self.fill(4 + len).await? {
                return Ok(None);
            }
            let frame = Bytes::copy_from_slice(&self.rest.left()[4..4 + len]);
            self.rest.take(4 + len);
            self.life.partial.set(false);
            return Ok(Some((frame, vec![permit])));
        }
        // Of a frame behind a larger one, more than the first piece may have come already.
        let have = self.rest.left().len().min(4 + len);
        let size = have.max(4 + len.min(FIRST_ALLOC));
        let permits = vec![self.reserve(class_len(size)).await?];
        let mut body = self.env.alloc(size);
        body[..have].copy_from_slice(&self.rest.left()[..have]);
        self.rest.take(have);
        self.large(4 + len, (body, have), permits).await
    }

    /// A frame from a peer whose last one was large: with luck all of it comes with one system
    /// call, to where it stays. Memory is got when bytes are there.
    async fn like_the_last(&mut self) -> Result<Option<Reserved>, Hangup> {
        self.stream.readable().await.map_err(|_| Hangup::Gone)?;
        let want = std::mem::take(&mut self.last).min(SECOND_ALLOC);
        let permits = vec![self.reserve(class_len(want)).await?];
        let mut body = self.env.alloc(want);
        let mut at = 0;
        while at < 4 {
            match self.read(&mut body[at..want]).await? {
                0 => return Ok(None),
                n => at += n,
            }
        }
        let total = 4 + self.length(&body)?;
        if total > at {
            return self.large(total, (body, at), permits).await;
        }
        if at - total > PEEK {
            self.rest.permit = Some(self.reserve(at - total).await?);
        }
        self.rest.bytes.extend_from_slice(&body[total..at]);
        self.last = if total > SMALL { total } else { 0 };
        self.life.partial.set(false);
        Ok(Some((body.freeze().slice(4..total), permits)))
    }

    /// The length that a frame begins with, bytes.
    fn length(&self, frame: &[u8]) -> Result<usize, Hangup> {
        let length = i32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]);
        let max = self.max;
        match usize::try_from(length) {
            Ok(len) if len > 0 && len <= max => Ok(len),
            _ => Err(Hangup::Bad(format!(
                "a frame of {length} bytes; 1 to {max} are allowed (socket.request.max.bytes)"
            ))),
        }
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
        Ok(Some((body.freeze().slice(4..total), permits)))
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

    async fn cut(env: Env) {
        let addr = SocketAddr::from(([127, 0, 0, 1], 9092));
        let listener = env.listen(addr).await.unwrap();
        let sent = frames(&env);
        let expected = sent.clone();
        let sender = {
            let env_ = env.clone();
            env.spawn(Class::Latency, async move {
                let (_read, mut write) = env_.connect(addr).await.unwrap().split();
                for frame in sent {
                    let mut bytes = (frame.len() as i32).to_be_bytes().to_vec();
                    bytes.extend(frame);
                    write.send(vec![Part::Bytes(bytes.into())]).await.unwrap();
                }
            })
        };
        let stream: Stream = env.adopt(listener.accept().await.unwrap()).unwrap();
        let budget = Budget::new(MEMORY);
        let life = Rc::new(Life::new(env.now()));
        let mut frames = Frames::new(stream.split().0, &env, (&budget, MAX), &life);
        for (i, wanted) in expected.iter().enumerate() {
            // Others come while this one is not looked for.
            env.sleep(Duration::from_millis(below(&env, 3))).await;
            let (frame, permits) = frames.next().await.unwrap().unwrap();
            assert!(frame == wanted[..], "frame {i} of {} bytes", wanted.len());
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
        each_seed(40, |seed| Sim::new(seed, SimOptions::default()).run(cut));
    }
}
