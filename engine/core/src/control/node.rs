//! A node's part in the metadata: its member of the quorum, the image that it folds, and the
//! controller while it leads. The only path by which metadata changes, with one node or many.
//!
//! Invariants: one batch of commands is under way at a time, and it was decided on the image that
//! it is applied to; what is answered is committed; an answer that changes nothing comes when a
//! majority has confirmed that this node led after it was asked.

use std::collections::VecDeque;
use std::sync::Arc;

use streamd_model::{ErrorCode, Mono, NodeId};

use super::{Answer, Ask, Controller, Outcome, Times, members, refuse};
use crate::meta::{ClusterImage, Command, Local, decode_batch, encode_batch};
use crate::raft::{self, Change, Members, NotTaken, Options, Quorum, Role};

/// The most questions that wait; more are told to come later.
const WAITING_MAX: usize = 10_000;
/// The most commands of one batch, but for those of one question.
const BATCH_MAX: usize = 1_000;
/// Bytes of the quorum's log that make it begin anew, if a snapshot is not longer.
const LOG_BYTES_MAX: u64 = 4 << 20;

/// What a driver knows a question by.
pub type Token = u64;

/// What the driver has to do, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send this to the metadata of a node. It may be lost.
    Send {
        /// To whom.
        to: NodeId,
        /// The message.
        bytes: Vec<u8>,
    },
    /// Append this to the metadata log, in order, then call [`Metadata::persisted`].
    Persist {
        /// What to call it with.
        number: u64,
        /// The record.
        record: Vec<u8>,
        /// Once it is durable the records before it may go.
        anew: bool,
    },
    /// The image changed.
    Image(Arc<ClusterImage>),
    /// A question is answered.
    Answer(Token, Outcome),
    /// A read may be answered from the image as it is now.
    Read(Token),
    /// Who leads changed.
    Role(Role),
    /// The members of the quorum changed.
    Members(Members),
    /// This node must stop: why, and what to do.
    Broken(String),
}

/// What is being committed.
struct Batch {
    term: u64,
    index: u64,
    answers: Vec<(Token, Outcome)>,
}

/// What waits for a majority to confirm that this node leads.
struct Confirming {
    number: u64,
    answers: Vec<(Token, Outcome)>,
    /// The index, once it is confirmed.
    index: Option<u64>,
    asked: bool,
}

/// The metadata of a node.
pub struct Metadata {
    quorum: Quorum,
    image: ClusterImage,
    times: Times,
    local: Local,
    controller: Option<Controller>,
    waiting: VecDeque<(Token, Ask)>,
    batch: Option<Batch>,
    confirming: VecDeque<Confirming>,
    next_read: u64,
    /// When the last input came.
    now: Mono,
    changed: bool,
    out: Vec<Output>,
}

impl Metadata {
    /// The first record of a new cluster: this image, these voters.
    pub fn bootstrap(voters: &[NodeId], image: &ClusterImage) -> Vec<u8> {
        Quorum::bootstrap(voters, image.encode())
    }

    /// Opens the metadata with the records of its log, oldest first.
    ///
    /// # Errors
    /// A sentence, if they are damaged.
    pub fn open<'a>(
        options: Options,
        times: Times,
        local: Local,
        records: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Metadata, String> {
        let mut metadata = Metadata {
            quorum: Quorum::open(options, records)?,
            image: ClusterImage::new(local.clone()),
            times,
            local,
            controller: None,
            waiting: VecDeque::new(),
            batch: None,
            confirming: VecDeque::new(),
            next_read: 1,
            now: Mono(0),
            changed: false,
            out: Vec::new(),
        };
        metadata.settle()?;
        Ok(metadata)
    }

    /// What is to be done now. Call it after every input.
    pub fn outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.out)
    }

    /// The image, as far as this node has it.
    pub fn image(&self) -> &ClusterImage {
        &self.image
    }

    /// One record with all that is here: a log that ends may begin anew with it.
    pub fn whole(&mut self) -> Vec<u8> {
        self.quorum.compact(self.image.encode());
        self.quorum.whole()
    }

    /// The member of the quorum.
    pub fn quorum(&self) -> &Quorum {
        &self.quorum
    }

    /// Whether this node decides at the moment.
    pub fn decides(&self) -> bool {
        self.controller.is_some()
    }

    /// A tick of the clock went by. The controller looks around.
    ///
    /// # Errors
    /// See [`Metadata::step`].
    pub fn tick(&mut self, now: Mono) -> Result<(), String> {
        self.now = now;
        self.quorum.tick();
        self.settle()?;
        if self.batch.is_none()
            && let Some(controller) = &mut self.controller
        {
            let commands = controller.tick(&self.image, now);
            if !commands.is_empty() {
                self.commit(&commands, Vec::new());
            }
        }
        self.work();
        self.settle()
    }

    /// Stands for election at once: a quorum of one need not wait.
    ///
    /// # Errors
    /// See [`Metadata::step`].
    pub fn campaign(&mut self, now: Mono) -> Result<(), String> {
        self.now = now;
        self.quorum.campaign();
        self.settle()
    }

    /// It is certain that the process of a node is gone: see [`Quorum::lost`].
    ///
    /// # Errors
    /// See [`Metadata::step`].
    pub fn lost(&mut self, node: NodeId, now: Mono) -> Result<(), String> {
        self.now = now;
        self.quorum.lost(node);
        self.settle()
    }

    /// A message from the metadata of another node.
    ///
    /// # Errors
    /// A sentence, if it is none, or what was committed cannot be read: this version is too old.
    pub fn step(&mut self, bytes: &[u8], now: Mono) -> Result<(), String> {
        self.now = now;
        self.quorum.step(bytes)?;
        self.settle()
    }

    /// What was to be persisted with this number, and all before it, is durable.
    ///
    /// # Errors
    /// See [`Metadata::step`].
    pub fn persisted(&mut self, number: u64, now: Mono) -> Result<(), String> {
        self.now = now;
        self.quorum.persisted(number);
        self.settle()
    }

    /// Asks the controller. The answer comes as an output; NOT_CONTROLLER at once if this node
    /// does not lead.
    pub fn ask(&mut self, token: Token, ask: Ask, now: Mono) {
        self.now = now;
        if !self.quorum.role().leads {
            self.out.push(Output::Answer(token, self.not_controller()));
        } else if self.waiting.len() >= WAITING_MAX {
            let text = format!("{WAITING_MAX} questions wait for the controller");
            let later = refuse(ErrorCode::ThrottlingQuotaExceeded, text);
            self.out.push(Output::Answer(token, later));
        } else {
            self.waiting.push_back((token, ask));
            self.work();
            // What was committed before decodes here as it did there.
            let _ = self.settle();
        }
    }

    /// Asks for a read of the image that sees all that was answered before.
    pub fn read(&mut self, token: Token, now: Mono) {
        self.now = now;
        if !self.quorum.role().leads {
            self.out.push(Output::Answer(token, self.not_controller()));
            return;
        }
        self.confirm(vec![(token, Err((ErrorCode::None, String::new())))]);
        let _ = self.settle();
    }

    /// Changes the members of the quorum.
    ///
    /// # Errors
    /// [`NotTaken`].
    pub fn change(&mut self, changes: &[Change]) -> Result<(), NotTaken> {
        let done = self.quorum.change(changes);
        let _ = self.settle();
        done
    }

    /// Has every broker get the quorum's log and a few of them vote, if this node decides; one
    /// change at a time. Gives the change that is under way now, if one was begun.
    ///
    /// # Errors
    /// [`NotTaken`]; `Busy` while the change before is not done.
    pub fn gather(&mut self) -> Result<Vec<Change>, NotTaken> {
        if !self.decides() {
            return Ok(Vec::new());
        }
        let (members, progress) = (self.quorum.members(), self.quorum.progress());
        let next = members::next(&members, self.image.cluster(), &progress, self.local.node);
        if !next.is_empty() {
            self.change(&next)?;
        }
        Ok(next)
    }

    /// Hands leadership of the quorum to another voter.
    ///
    /// # Errors
    /// [`NotTaken`].
    pub fn transfer(&mut self, to: NodeId) -> Result<(), NotTaken> {
        let done = self.quorum.transfer(to);
        let _ = self.settle();
        done
    }

    fn not_controller(&self) -> Outcome {
        let text = match self.quorum.role().leader {
            Some(leader) => format!("node {} is the controller", leader.0),
            None => "there is no controller at the moment".to_owned(),
        };
        refuse(ErrorCode::NotController, text)
    }

    /// Decides what waits, if nothing is under way.
    fn work(&mut self) {
        while self.batch.is_none() && !self.waiting.is_empty() {
            let Some(controller) = &mut self.controller else {
                return;
            };
            let mut after = self.image.clone();
            let (mut commands, mut answers, mut unchanged) = (Vec::new(), Vec::new(), Vec::new());
            while commands.len() < BATCH_MAX
                && let Some((token, ask)) = self.waiting.pop_front()
            {
                let verdict = controller.handle(&after, &ask, self.now);
                let outcome = verdict.and_then(|(more, answer)| {
                    members::all_tell(&self.quorum.members(), after.cluster(), &more)?;
                    let mut next = after.clone();
                    for command in &more {
                        next.admit(command)?;
                        next.apply(command);
                    }
                    after = next;
                    let changes = !more.is_empty();
                    commands.extend(more);
                    Ok((changes, registered(&after, &ask, answer)))
                });
                match outcome {
                    Ok((true, answer)) => answers.push((token, Ok(answer))),
                    Ok((false, answer)) => unchanged.push((token, Ok(answer))),
                    Err(refused) => unchanged.push((token, Err(refused))),
                }
            }
            // What was refused or found may rest on what is committed with this batch.
            answers.append(&mut unchanged);
            if commands.is_empty() {
                self.confirm(answers);
            } else {
                self.commit(&commands, answers);
            }
        }
    }

    fn commit(&mut self, commands: &[Command], answers: Vec<(Token, Outcome)>) {
        match self.quorum.propose(encode_batch(commands)) {
            Ok((term, index)) => {
                self.batch = Some(Batch {
                    term,
                    index,
                    answers,
                });
            }
            Err(_) => self.fail(answers),
        }
    }

    /// Answers when a majority confirms that this node leads.
    fn confirm(&mut self, answers: Vec<(Token, Outcome)>) {
        let number = self.next_read;
        self.next_read += 1;
        let asked = self.quorum.read(number).is_ok();
        self.confirming.push_back(Confirming {
            number,
            answers,
            index: None,
            asked,
        });
    }

    fn fail(&mut self, answers: Vec<(Token, Outcome)>) {
        for (token, _) in answers {
            self.out.push(Output::Answer(token, self.not_controller()));
        }
    }

    fn settle(&mut self) -> Result<(), String> {
        loop {
            let outputs = self.quorum.outputs();
            if outputs.is_empty() {
                break;
            }
            for output in outputs {
                self.take(output)?;
            }
            self.work();
        }
        if self.changed {
            self.changed = false;
            self.out.push(Output::Image(Arc::new(self.image.clone())));
        }
        self.confirmed();
        if self.quorum.is_long(LOG_BYTES_MAX) {
            self.quorum.compact(self.image.encode());
        }
        Ok(())
    }

    fn take(&mut self, output: raft::Output) -> Result<(), String> {
        match output {
            raft::Output::Send { to, bytes } => self.out.push(Output::Send { to, bytes }),
            raft::Output::Persist {
                number,
                record,
                anew,
            } => self.out.push(Output::Persist {
                number,
                record,
                anew,
            }),
            raft::Output::Apply { index, term, data } => return self.apply(index, term, &data),
            raft::Output::Restore { data, .. } => {
                self.image = ClusterImage::decode(&data, self.local.clone()).map_err(|e| {
                    format!("the metadata snapshot: {e}. Start the newer version again")
                })?;
                self.changed = true;
            }
            raft::Output::Read { token, index } => {
                // Later ones cover the earlier ones that were lost.
                for waiting in self.confirming.iter_mut().filter(|c| c.number <= token) {
                    waiting.index.get_or_insert(index);
                }
            }
            raft::Output::Compact => self.quorum.compact(self.image.encode()),
            raft::Output::Members(members) => self.out.push(Output::Members(members)),
            raft::Output::Role(role) => self.role(role),
            raft::Output::Broken(why) => self.out.push(Output::Broken(why)),
        }
        Ok(())
    }

    fn role(&mut self, role: Role) {
        self.out.push(Output::Role(role));
        if role.leads {
            return;
        }
        self.controller = None;
        // What is under way may still be committed: who asked has to look.
        let mut lost = self.batch.take().map_or(Vec::new(), |b| b.answers);
        lost.extend(self.confirming.drain(..).flat_map(|c| c.answers));
        lost.extend(
            self.waiting
                .drain(..)
                .map(|(token, _)| (token, Ok(Answer::Done))),
        );
        self.fail(lost);
    }

    fn apply(&mut self, index: u64, term: u64, data: &[u8]) -> Result<(), String> {
        if !data.is_empty() {
            let commands = decode_batch(data).map_err(|e| {
                format!("entry {index} of the metadata log: {e}. Start the newer version again")
            })?;
            for command in &commands {
                self.image.apply(command);
            }
            self.changed |= !commands.is_empty();
        }
        let role = self.quorum.role();
        if self.batch.as_ref().is_some_and(|b| b.index <= index) {
            let batch = self.batch.take().map(|b| (b.term, b.index, b.answers));
            let (of, at, answers) = batch.expect("it is there");
            if (of, at) == (term, index) {
                // The image goes out before the answers.
                if self.changed {
                    self.changed = false;
                    self.out.push(Output::Image(Arc::new(self.image.clone())));
                }
                let done = answers.into_iter();
                self.out
                    .extend(done.map(|(token, outcome)| Output::Answer(token, outcome)));
            } else {
                self.fail(answers);
            }
        }
        if data.is_empty() && role.leads && term == role.term {
            // All that was committed before this term is in the image.
            self.controller = Some(Controller::new(self.times, &self.image, self.now));
        }
        Ok(())
    }

    fn confirmed(&mut self) {
        let applied = self.quorum.applied();
        while let Some(first) = self.confirming.front_mut() {
            if first.index.is_none_or(|i| i > applied) {
                if !first.asked {
                    first.asked = self.quorum.read(first.number).is_ok();
                }
                return;
            }
            for (token, outcome) in self
                .confirming
                .pop_front()
                .map_or(Vec::new(), |c| c.answers)
            {
                match outcome {
                    Err((ErrorCode::None, _)) => self.out.push(Output::Read(token)),
                    outcome => self.out.push(Output::Answer(token, outcome)),
                }
            }
        }
    }
}

/// A registration's epoch is known once it is applied.
fn registered(after: &ClusterImage, ask: &Ask, answer: Answer) -> Answer {
    match (ask, answer) {
        (Ask::Register(told), Answer::Registered { .. }) => Answer::Registered {
            epoch: after.cluster().broker(told.node).map_or(-1, |b| b.epoch),
        },
        (_, answer) => answer,
    }
}
