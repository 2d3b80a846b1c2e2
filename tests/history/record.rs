//! What the clients' histories say, parsed.
//!
//! A line is `TIME PROCESS NUMBER TYPE KIND WORD...`. Times are microseconds of one clock that all
//! processes share. TYPE is `invoke` and then one of `ok`, `fail` (it surely did not happen) and
//! `info` (nobody knows), with the same process and number. KIND is `send`, `poll` or `txn`, and
//! the words are `s:PLACE:VALUE` or, acknowledged, `s:PLACE:VALUE@OFFSET`; `r:PLACE:VALUE@OFFSET`
//! for what was read; `c:TIME` for when a commit was asked for. A place is `TOPIC/PARTITION`.
//! The other kinds are states: `owns PLACE...` (positions elsewhere are forgotten), `rewind` (all
//! are), `group NAME TOPIC`, `moves FROM TO`, `committed c:TIME PLACE@OFFSET...`: what its group
//! has committed, asked for at that time, and `final PLACE@END...`: what this process read is all
//! that there is. Lines that begin with `#` are notes.

use std::collections::{BTreeMap, BTreeSet};

/// Whether an operation happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    Ok,
    Fail,
    Info,
}

/// A record to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub place: String,
    pub value: String,
    /// Where it was acknowledged.
    pub offset: Option<u64>,
}

/// A record that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    pub place: String,
    pub value: String,
    pub offset: u64,
}

/// A send, a poll or a transaction of a process.
#[derive(Clone, Debug)]
pub struct Op {
    pub process: String,
    pub number: u64,
    pub kind: String,
    pub began: u64,
    /// Nothing when the process ended before.
    pub ended: Option<u64>,
    /// When a transaction's commit was asked for.
    pub commit_began: Option<u64>,
    pub fate: Fate,
    pub sent: Vec<Sent>,
    pub read: Vec<Read>,
}

/// What happened to the positions of a process, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// An operation ended, by its index.
    Done(usize),
    /// It has positions in these places only.
    Owns(BTreeSet<String>),
    /// It has no positions.
    Rewind,
}

/// What the group of a process has committed.
#[derive(Clone, Debug)]
pub struct Look {
    pub process: String,
    /// When it was asked for.
    pub began: u64,
    pub place: String,
    pub offset: u64,
}

/// All that the processes said.
#[derive(Debug, Default)]
pub struct History {
    pub ops: Vec<Op>,
    pub steps: BTreeMap<String, Vec<Step>>,
    /// Group and topic of the processes that are members.
    pub members: BTreeMap<String, (String, String)>,
    /// Topics whose records are moved to another one.
    pub moves: BTreeSet<(String, String)>,
    pub looks: Vec<Look>,
    /// Who read all, and the ends that it reached.
    pub finals: BTreeSet<String>,
    pub ends: BTreeMap<String, u64>,
    pub notes: Vec<String>,
    open: BTreeMap<(String, u64), usize>,
}

impl History {
    /// Parses the lines of several processes, each in its order.
    ///
    /// # Errors
    /// The first line that has another form.
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut history = Self::default();
        for line in lines {
            let line = line.trim();
            if let Some(note) = line.strip_prefix('#') {
                history.notes.push(note.trim().to_owned());
            } else if !line.is_empty() {
                history
                    .take(line)
                    .ok_or_else(|| format!("a history has the line {line:?}"))?;
            }
        }
        Ok(history)
    }

    fn take(&mut self, line: &str) -> Option<()> {
        let mut words = line.split_ascii_whitespace();
        let time: u64 = words.next()?.parse().ok()?;
        let process = words.next()?.to_owned();
        let number: u64 = words.next()?.parse().ok()?;
        let (fate, kind) = (words.next()?, words.next()?);
        let words: Vec<&str> = words.collect();
        if !matches!(kind, "send" | "poll" | "txn") {
            return self.take_state(process, kind, &words);
        }
        if fate == "invoke" {
            let op = Op {
                process: process.clone(),
                number,
                kind: kind.to_owned(),
                began: time,
                ended: None,
                commit_began: None,
                fate: Fate::Info,
                sent: Vec::new(),
                read: Vec::new(),
            };
            self.ops.push(op);
            let index = self.ops.len() - 1;
            let earlier = self.open.insert((process, number), index);
            return (earlier.is_none() && self.take_words(index, &words).is_some()).then_some(());
        }
        let index = self.open.remove(&(process.clone(), number))?;
        let op = &mut self.ops[index];
        op.ended = Some(time);
        op.fate = match fate {
            "ok" => Fate::Ok,
            "fail" => Fate::Fail,
            "info" => Fate::Info,
            _ => return None,
        };
        op.sent.clear();
        op.read.clear();
        self.take_words(index, &words)?;
        self.steps
            .entry(process)
            .or_default()
            .push(Step::Done(index));
        Some(())
    }

    fn take_words(&mut self, index: usize, words: &[&str]) -> Option<()> {
        let op = &mut self.ops[index];
        for word in words {
            let (what, rest) = word.split_once(':')?;
            if what == "c" {
                op.commit_began = Some(rest.parse().ok()?);
                continue;
            }
            let (place, rest) = rest.split_once(':')?;
            let (value, offset) = match rest.split_once('@') {
                Some((value, offset)) => (value, Some(offset.parse().ok()?)),
                None => (rest, None),
            };
            let (place, value) = (place.to_owned(), value.to_owned());
            match what {
                "s" => op.sent.push(Sent {
                    place,
                    value,
                    offset,
                }),
                "r" => op.read.push(Read {
                    place,
                    value,
                    offset: offset?,
                }),
                _ => return None,
            }
        }
        Some(())
    }

    fn take_state(&mut self, process: String, kind: &str, words: &[&str]) -> Option<()> {
        let mut step = |step| self.steps.entry(process.clone()).or_default().push(step);
        match (kind, words) {
            ("owns", places) => step(Step::Owns(places.iter().map(|&p| p.to_owned()).collect())),
            ("rewind", []) => step(Step::Rewind),
            ("group", [group, topic]) => {
                let place = ((*group).to_owned(), (*topic).to_owned());
                self.members.insert(process, place);
            }
            ("moves", [from, to]) => {
                self.moves.insert(((*from).to_owned(), (*to).to_owned()));
            }
            ("committed", [began, ends @ ..]) => {
                let began = began.strip_prefix("c:")?.parse().ok()?;
                for end in ends {
                    let (place, offset) = end.split_once('@')?;
                    self.looks.push(Look {
                        process: process.clone(),
                        began,
                        place: place.to_owned(),
                        offset: offset.parse().ok()?,
                    });
                }
            }
            ("final", ends) => {
                for end in ends {
                    let (place, end) = end.split_once('@')?;
                    self.ends.insert(place.to_owned(), end.parse().ok()?);
                }
                self.finals.insert(process);
            }
            _ => return None,
        }
        Some(())
    }

    /// Operations and records by kind and fate, as a line for people.
    pub fn summary(&self) -> String {
        let mut counts = BTreeMap::<(&str, Fate), (u64, u64, u64)>::new();
        for op in &self.ops {
            let count = counts.entry((&op.kind, op.fate)).or_default();
            count.0 += 1;
            count.1 += op.sent.len() as u64;
            count.2 += op.read.len() as u64;
        }
        let words: Vec<String> = counts
            .iter()
            .map(|((kind, fate), (ops, sent, read))| {
                let fate = format!("{fate:?}").to_lowercase();
                format!("{ops} {kind} {fate} ({sent} sent, {read} read)")
            })
            .collect();
        words.join("; ")
    }
}

/// The topic of a place.
pub fn topic(place: &str) -> &str {
    place.rsplit_once('/').map_or(place, |(topic, _)| topic)
}
