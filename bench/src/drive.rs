//! The event loop: one thread, any number of connections, any load.
//!
//! Closed loop: whenever a connection has room, the load gives it a request. Open loop: the load
//! says when its next request is due, and latency counts from then, whether a connection had room
//! or not. After the measured interval every request that was due in it is still sent and
//! awaited: leaving out the late ones would flatter the broker.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::conn::{Conn, Pending, Template};
use crate::failure::{Failure, Result};
use crate::meter::Meter;
use crate::sys::{Poll, Ready, exact_timers};

/// A broker that does not answer for so long has stopped.
const SILENCE_MAX: u64 = 60_000_000_000;
/// How long the requests that were due may take to be answered after the end.
const DRAIN_MAX: u64 = 60_000_000_000;

/// What a load wants to send next.
#[derive(Debug)]
pub enum Next {
    /// This request, which was due then.
    Send(Rc<Template>, u64),
    /// Nothing before this time, for any connection.
    At(u64),
    /// Nothing before this time for this connection.
    Later(u64),
    /// Nothing until an answer comes, or nothing any more.
    Nothing,
}

/// Something that makes requests and takes answers.
pub trait Load {
    /// The next request for a connection that has room.
    ///
    /// # Errors
    /// The request cannot be made.
    fn next(&mut self, conn: usize, now: u64) -> Result<Next>;
    /// How many requests a connection may have out at once.
    fn in_flight(&self, conn: usize) -> usize;
    /// Whether a connection's requests are answered (acks 0 are not).
    fn answered(&self, conn: usize) -> bool;
    /// Takes an answer.
    ///
    /// # Errors
    /// The answer is an error or cannot be read.
    fn answer(&mut self, conn: usize, frame: &[u8], asked: Pending, now: u64) -> Result<()>;
    /// Takes note that a request without an answer was sent.
    fn sent(&mut self, asked: Pending, now: u64);
    /// What counts the run.
    fn meter(&mut self) -> &mut Meter;
}

/// Runs a load to its end, with a connection to each of these addresses.
///
/// # Errors
/// The broker cannot be reached, breaks off, falls silent, or answers with an error.
pub fn drive<L: Load>(addresses: &[SocketAddr], load: &mut L) -> Result<()> {
    let connections = addresses.len();
    exact_timers();
    let poll = Poll::new(connections)?;
    let mut conns = Vec::with_capacity(connections);
    for (token, address) in addresses.iter().enumerate() {
        let conn = Conn::open(*address)?;
        poll.add(&conn.stream, token)?;
        conns.push(conn);
    }
    let mut run = Run {
        conns,
        poll,
        first: 0,
        heard: 0,
        all_answered: (0..connections).all(|conn| load.answered(conn)),
    };
    run.until_done(load)
}

struct Run {
    conns: Vec<Conn>,
    poll: Poll,
    /// The connection that is offered work first; moves on, so that all get their part.
    first: usize,
    /// When an answer came last.
    heard: u64,
    /// Every connection's requests are answered.
    all_answered: bool,
}

impl Run {
    fn until_done<L: Load>(&mut self, load: &mut L) -> Result<()> {
        let clock = load.meter().clock();
        let mut ready = Vec::with_capacity(self.conns.len());
        loop {
            let now = clock.now();
            load.meter().tick(now)?;
            let wake = self.hand_out(load, now)?;
            let busy = self
                .conns
                .iter()
                .any(|conn| conn.sending() || conn.in_flight() > 0);
            if let Some(ended) = load.meter().ended_at() {
                if !busy && wake.is_none() {
                    return Ok(());
                }
                if now > ended + DRAIN_MAX {
                    return Err(Failure::new(
                        "requests that were due were not answered a minute after the end: \
                         the rate is beyond what the broker can do",
                    ));
                }
            }
            self.check_silence(busy, now)?;
            let until = [wake, load.meter().next_tick(), Some(now + SILENCE_MAX)];
            let until = until.into_iter().flatten().min().unwrap_or(now);
            ready.clear();
            let timeout = Duration::from_nanos(until.saturating_sub(clock.now()));
            self.poll.wait(timeout, |event| ready.push(event))?;
            for event in &ready {
                self.serve(load, *event)?;
            }
        }
    }

    fn check_silence(&mut self, busy: bool, now: u64) -> Result<()> {
        if !busy {
            self.heard = now;
        } else if now > self.heard + SILENCE_MAX {
            return Err(Failure::new("the broker gave no answer for a minute"));
        }
        Ok(())
    }

    /// Gives requests to the connections with room, in turn; says when the next one is due.
    fn hand_out<L: Load>(&mut self, load: &mut L, now: u64) -> Result<Option<u64>> {
        let count = self.conns.len();
        self.first = (self.first + 1) % count;
        loop {
            let mut idle = true;
            let mut soonest: Option<u64> = None;
            for turn in 0..count {
                let token = (self.first + turn) % count;
                let conn = &mut self.conns[token];
                if conn.sending() || conn.in_flight() >= load.in_flight(token) {
                    continue;
                }
                let answered = load.answered(token);
                match load.next(token, now)? {
                    Next::Send(template, due) => conn.begin(template, due, answered),
                    Next::At(due) => return Ok(Some(soonest.map_or(due, |at| at.min(due)))),
                    Next::Later(due) => {
                        soonest = Some(soonest.map_or(due, |at| at.min(due)));
                        continue;
                    }
                    Next::Nothing => continue,
                }
                self.flush(load, token)?;
                idle = false;
            }
            if idle {
                return Ok(soonest);
            }
            // Without answers (acks 0) a socket may take requests for ever: time must be looked at.
            if !self.all_answered {
                return Ok(Some(now));
            }
        }
    }

    fn flush<L: Load>(&mut self, load: &mut L, token: usize) -> Result<()> {
        let conn = &mut self.conns[token];
        conn.flush()?;
        if let Some(asked) = conn.take_unanswered() {
            let now = load.meter().clock().now();
            self.heard = now;
            load.sent(asked, now);
        }
        if conn.sending() != conn.watching_write {
            conn.watching_write = conn.sending();
            self.poll
                .watch_write(&conn.stream, token, conn.watching_write)?;
        }
        Ok(())
    }

    fn serve<L: Load>(&mut self, load: &mut L, event: Ready) -> Result<()> {
        let token = event.token;
        if event.read {
            let clock = load.meter().clock();
            let heard = &mut self.heard;
            self.conns[token].receive(|frame, pending| {
                let now = clock.now();
                *heard = now;
                load.answer(token, frame, pending, now)
            })?;
        }
        if event.write {
            self.flush(load, token)?;
        }
        Ok(())
    }
}
