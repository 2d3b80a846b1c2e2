//! The shard's one way to the disk: what its logs append goes into the journal, group by group, and
//! from there, a file of the journal at a time, to their segments.
//!
//! While a group is written the next one gathers by itself; nobody waits on a timer. Whoever owns a
//! log is told when it is durable, or that it has failed. A file of the journal is used again only
//! when every log in it is durable in its segments. If one of them failed, its last records are
//! nowhere else: the file is kept, and the next start tries again. A full disk is waited for: see
//! decision 0007.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use streamd_io::local::{Budget, Notify};
use streamd_io::{Class, Env, FileSystem};
use streamd_log::journal::{Flushed, Group, Journal, JournalFile, WriteError};
use streamd_log::log::SharedLog;
use streamd_log::{LogError, open_files, write_back};
use streamd_model::{Mono, Offset};

use crate::tail_budget::TailBudget;

/// So many logs are written to their segments at once,
const BACK_AT_ONCE: usize = 16;
/// and so many bytes: a group of the journal waits no longer than these take the disk.
const BACK_BYTES: usize = 1 << 20;
/// From so many logs on they are made durable all together, by one call for the file system, and
/// their files are closed again: a sync of each would take the device for each.
const ALL_FROM: usize = 64;
/// Files that were not used for so long are closed.
const FILES_IDLE: u32 = 30;
/// What was written to the journal goes to the segments when nothing more came for so long.
const IDLE: Duration = Duration::from_secs(1);
/// How often a full disk is asked for room.
const FULL_POLL: Duration = Duration::from_millis(250);
/// So many files of the journal are begun in a row that cannot be used, before logs fail.
const BEGIN_TRIES: usize = 2;

/// Who owns a log that goes through the journal.
pub trait Owner {
    /// The log.
    fn log(&self) -> &SharedLog;
    /// Where it stands with the flusher.
    fn turn(&self) -> &Turn;
    /// Everything before `flushed.next` is durable; `before` is what was so until now.
    fn flushed(&self, before: Offset, flushed: Flushed);
    /// The log must not be used any more.
    fn failed(&self, error: &LogError);
    /// The disk is full: what was appended waits for room. Nobody has to wait with it.
    fn delayed(&self, _error: &LogError) {}
    /// Whether it failed or was deleted.
    fn is_gone(&self) -> bool;
    /// Whether it was deleted: then nobody needs what it holds.
    fn is_deleted(&self) -> bool;
}

/// Where a log stands with the flusher.
#[derive(Default)]
pub struct Turn {
    /// Waits for a place in a group.
    queued: Cell<bool>,
    /// A group with its batches is being written.
    in_flight: Cell<bool>,
    /// It is on the list of the journal's current file.
    listed: Cell<bool>,
}

impl Turn {
    /// Whether something of the log is on its way to the journal.
    pub fn is_busy(&self) -> bool {
        self.queued.get() || self.in_flight.get()
    }
}

/// Whose batches a group holds, with the offsets up to which they were durable before.
type Owners = Vec<(Rc<dyn Owner>, Offset)>;

/// Logs to be written to their segments, and the file of the journal that is free after that.
struct Drain {
    owners: Vec<Rc<dyn Owner>>,
    file: Option<Rc<JournalFile>>,
}

/// The way to the disk.
pub struct Flusher {
    env: Env,
    tail: Rc<TailBudget>,
    disk: OnceCell<(Journal, FileSystem)>,
    queue: RefCell<VecDeque<Rc<dyn Owner>>>,
    writing: Cell<bool>,
    /// Logs whose directories are being made.
    making: Cell<usize>,
    /// Whose batches the current file holds.
    listed: RefCell<Vec<Rc<dyn Owner>>>,
    drains: RefCell<VecDeque<Drain>>,
    draining: Cell<bool>,
    back_room: Budget,
    /// From so many logs on a write-back makes them durable by one call.
    all_from: Cell<usize>,
    /// Groups that were written.
    groups: Cell<u64>,
    changed: Notify,
    /// Until then the disk counts as full.
    full_until: Cell<Mono>,
    closing: Cell<bool>,
}

impl Flusher {
    /// A flusher that writes nothing before [`Flusher::start`].
    pub fn new(env: &Env, tail: Rc<TailBudget>) -> Rc<Flusher> {
        Rc::new(Flusher {
            env: env.clone(),
            tail,
            disk: OnceCell::new(),
            queue: RefCell::default(),
            writing: Cell::new(false),
            making: Cell::new(0),
            listed: RefCell::default(),
            drains: RefCell::default(),
            draining: Cell::new(false),
            back_room: Budget::new(BACK_BYTES),
            all_from: Cell::new(ALL_FROM),
            groups: Cell::new(0),
            changed: Notify::default(),
            full_until: Cell::new(env.now()),
            closing: Cell::new(false),
        })
    }

    /// Whether something waits for room on the disk.
    pub fn is_held(&self) -> bool {
        self.env.now() < self.full_until.get()
    }

    /// The disk is full. Waits a while; false when the flusher is being closed, so that it is no
    /// use to wait.
    async fn hold(&self, error: &LogError) -> bool {
        if self.closing.get() {
            return false;
        }
        if !self.is_held() {
            eprintln!(
                "error: the disk is full: {error}. Nothing is lost; producers are refused until \
                 there is room: free some, or add some"
            );
        }
        // Longer than until the next try.
        self.full_until.set(self.env.now() + 4 * FULL_POLL);
        self.env.sleep(FULL_POLL).await;
        !self.closing.get()
    }

    /// From so many logs on a write-back makes them durable all together, by one call for the file
    /// system; 64 when nobody says otherwise.
    pub fn sync_all_from(&self, logs: usize) {
        self.all_from.set(logs);
    }

    /// Takes the journal into use, and the file system that it and all logs are on.
    pub fn start(self: &Rc<Self>, journal: Journal, all: FileSystem) {
        let first = self.disk.set((journal, all)).is_ok();
        assert!(first, "a flusher is started once");
        let this = self.clone();
        self.env
            .spawn(Class::Background, async move { this.tidy().await })
            .detach();
    }

    fn journal(&self) -> &Journal {
        let (journal, _) = self.disk.get().expect("started before the first append");
        journal
    }

    /// The file system of the logs; `None` before the start.
    pub fn file_system(&self) -> Option<&FileSystem> {
        self.disk.get().map(|(_, all)| all)
    }

    /// A file of the journal that a replay had put off is free.
    pub async fn let_go(&self, number: u32) -> Result<(), LogError> {
        self.journal().let_go(number).await
    }

    /// Sees to it that what was appended to a log becomes durable. Returns at once.
    pub fn kick(self: &Rc<Self>, owner: Rc<dyn Owner>) {
        if owner.turn().queued.replace(true) {
            return;
        }
        if owner.log().borrow().has_dir() {
            return self.enqueue(owner);
        }
        let this = self.clone();
        self.making.set(self.making.get() + 1);
        let make = async move {
            let result = loop {
                match write_back::make_dir(&this.env, owner.log()).await {
                    Err(error) if error.is_full() && !owner.is_gone() => {
                        owner.delayed(&error);
                        if !this.hold(&error).await {
                            break Err(error);
                        }
                    }
                    result => break result,
                }
            };
            this.making.set(this.making.get() - 1);
            match result {
                Ok(()) => this.enqueue(owner),
                Err(error) => {
                    owner.turn().queued.set(false);
                    owner.failed(&error);
                    this.changed.notify_all();
                }
            }
        };
        self.env.spawn(Class::Latency, make).detach();
    }

    fn enqueue(self: &Rc<Self>, owner: Rc<dyn Owner>) {
        self.queue.borrow_mut().push_back(owner);
        if !self.writing.replace(true) {
            let this = self.clone();
            self.env
                .spawn(Class::Latency, async move { this.write_all().await })
                .detach();
        }
    }

    async fn write_all(self: Rc<Self>) {
        let mut tries = 0;
        while let Some((group, owners)) = self.gather() {
            if !self.journal().has_room(group.len()) {
                self.close_file();
            }
            let result = self.journal().write(group).await;
            for (owner, _) in &owners {
                owner.turn().in_flight.set(false);
            }
            match result {
                Ok(flushed) => {
                    tries = 0;
                    self.written(owners, &flushed);
                }
                Err(WriteError::NotBegun(error)) => {
                    tries += 1;
                    self.not_begun(owners, &error, tries).await;
                }
                Err(WriteError::Failed(error)) => self.abandon(&owners, &error),
            }
            self.groups.set(self.groups.get() + 1);
            self.changed.notify_all();
        }
    }

    /// A group was gathered and is not in the journal: it is gathered again when there is room, or
    /// for another file of the journal.
    async fn not_begun(self: &Rc<Self>, owners: Owners, error: &LogError, tries: usize) {
        let again = if error.is_full() {
            for (owner, _) in owners.iter().filter(|(o, _)| !o.is_gone()) {
                owner.delayed(error);
            }
            self.hold(error).await
        } else {
            eprintln!("error: {error}: this file of the journal is not used any more");
            tries < BEGIN_TRIES
        };
        if !again {
            return self.abandon(&owners, error);
        }
        if !error.is_full() {
            self.close_file();
        }
        let mut queue = self.queue.borrow_mut();
        for (owner, _) in owners.into_iter().rev() {
            if !owner.turn().queued.replace(true) {
                queue.push_front(owner);
            }
        }
    }

    /// Nobody knows what of a group is on the disk: its logs are not used any more, nor is the file
    /// of the journal. What it holds of others is good, and goes to the segments.
    fn abandon(self: &Rc<Self>, owners: &Owners, error: &LogError) {
        for (owner, _) in owners.iter().filter(|(o, _)| !o.is_gone()) {
            owner.failed(error);
        }
        self.close_file();
    }

    /// The next group and whose batches are in it. `None` ends the writing.
    fn gather(&self) -> Option<(Group, Owners)> {
        let mut group = Group::default();
        let mut owners = Vec::new();
        let mut queue = self.queue.borrow_mut();
        while !group.is_full()
            && let Some(owner) = queue.pop_front()
        {
            owner.turn().queued.set(false);
            if owner.is_gone() {
                continue;
            }
            let before = owner.log().borrow().flushed();
            let count = group.logs();
            if group.take(owner.log()) {
                owner.turn().queued.set(true);
                queue.push_back(owner.clone());
            }
            if group.logs() > count {
                owner.turn().in_flight.set(true);
                owners.push((owner, before));
            }
        }
        if group.is_empty() {
            self.writing.set(false);
            return None;
        }
        Some((group, owners))
    }

    fn written(&self, owners: Owners, flushed: &[Flushed]) {
        assert!(owners.len() == flushed.len(), "one answer for each log");
        for ((owner, before), flushed) in owners.into_iter().zip(flushed) {
            if !owner.turn().listed.replace(true) {
                self.listed.borrow_mut().push(owner.clone());
            }
            owner.flushed(before, *flushed);
            self.tail.grew(&owner, *flushed);
        }
    }

    /// Ends the journal's current file: a new one takes the next group, and this one is free when
    /// all that it holds is in the segments.
    fn close_file(self: &Rc<Self>) {
        let file = self.journal().close_current();
        if file.is_some() {
            self.drain(file);
        }
    }

    fn drain(self: &Rc<Self>, file: Option<Rc<JournalFile>>) {
        let owners = self.listed.take();
        for owner in &owners {
            owner.turn().listed.set(false);
        }
        self.drains.borrow_mut().push_back(Drain { owners, file });
        if !self.draining.replace(true) {
            let this = self.clone();
            self.env
                .spawn(Class::Latency, async move { this.drain_all().await })
                .detach();
        }
    }

    async fn drain_all(self: Rc<Self>) {
        loop {
            let next = self.drains.borrow_mut().pop_front();
            let Some(drain) = next else { break };
            self.write_back(&drain.owners).await;
            self.tail.trim();
            let is_stuck = |o: &Rc<dyn Owner>| {
                o.is_gone() && !o.is_deleted() && !o.log().borrow().is_settled()
            };
            match drain.file {
                Some(file) if drain.owners.iter().any(is_stuck) => self.journal().keep(&file),
                Some(file) => self.journal().release(&file),
                None => self.list_again(drain.owners.into_iter().filter(is_stuck)),
            }
        }
        self.draining.set(false);
        self.changed.notify_all();
    }

    /// Writes what the logs have to their segments and makes it durable there.
    async fn write_back(self: &Rc<Self>, owners: &[Rc<dyn Owner>]) {
        let together = owners.len() >= self.all_from.get();
        self.each(owners, Step::Write { keep: !together }).await;
        if !together {
            return self.each(owners, Step::Settle).await;
        }
        let written = |o: &Rc<dyn Owner>| o.log().borrow().written();
        let marks: Vec<Offset> = owners.iter().map(written).collect();
        let Some(all) = self.file_system() else {
            return;
        };
        if let Err(error) = all.sync().await {
            // Nobody knows whose bytes they are.
            let what = "sync the file system of the data directory".to_owned();
            let error = LogError::sync(what)(error);
            for owner in owners.iter().filter(|o| !o.is_gone()) {
                owner.failed(&error);
            }
            return;
        }
        for (owner, written) in owners.iter().zip(marks) {
            self.back(owner, Step::Synced { written }).await;
            self.env.yield_if_needed().await;
        }
    }

    /// Sends what the journal has of one log to its segments, durably, before its turn comes.
    pub async fn write_now(&self, log: &SharedLog) -> Result<(), LogError> {
        write_back::write_back(&self.env, log, &self.back_room, true).await?;
        write_back::settle(&self.env, log).await
    }

    async fn each(self: &Rc<Self>, owners: &[Rc<dyn Owner>], step: Step) {
        for some in owners.chunks(BACK_AT_ONCE) {
            let begin = |owner: &Rc<dyn Owner>| {
                let (this, owner) = (self.clone(), owner.clone());
                let back = async move { this.back(&owner, step).await };
                self.env.spawn(Class::Latency, back)
            };
            let tasks: Vec<_> = some.iter().map(begin).collect();
            for task in tasks {
                task.await;
            }
        }
    }

    /// The file that was the current one has the records of these logs still, and they are on no
    /// other list. It may have been closed since.
    fn list_again(&self, stuck: impl Iterator<Item = Rc<dyn Owner>>) {
        let mut drains = self.drains.borrow_mut();
        if let Some(closed) = drains.iter_mut().find(|d| d.file.is_some()) {
            closed.owners.extend(stuck);
        } else {
            let stuck = stuck.filter(|o| !o.turn().listed.replace(true));
            self.listed.borrow_mut().extend(stuck);
        }
    }

    /// One step for one log; again and again while the disk is full.
    async fn back(&self, owner: &Rc<dyn Owner>, step: Step) {
        let (env, log) = (&self.env, owner.log());
        while !owner.is_gone() {
            let result = match step {
                Step::Write { keep } => {
                    write_back::write_back(env, log, &self.back_room, keep).await
                }
                Step::Settle => write_back::settle(env, log).await,
                Step::Synced { written } => write_back::settle_synced(env, log, written).await,
            };
            let Err(error) = result else { break };
            if (!error.is_full() || !self.hold(&error).await) && !owner.is_gone() {
                owner.failed(&error);
            }
        }
    }

    /// Sends what an idle shard has in its journal to the segments, and closes files that nobody
    /// uses. For ever.
    async fn tidy(self: Rc<Self>) {
        let mut seen = self.groups.get();
        for round in 1u32.. {
            self.env.sleep(IDLE).await;
            if round.is_multiple_of(FILES_IDLE) {
                open_files::age();
            }
            let waits = self.listed.borrow().iter().any(|o| !o.is_gone());
            if seen == self.groups.get() && waits {
                self.drain(None);
            }
            seen = self.groups.get();
        }
    }

    /// Waits until all that was appended is durable in the segments, or has failed. Nothing must be
    /// appended any more.
    pub async fn close(self: &Rc<Self>) -> Result<(), LogError> {
        let Some((journal, _)) = self.disk.get() else {
            return Ok(());
        };
        self.closing.set(true);
        while self.writing.get() || self.making.get() > 0 {
            self.changed.wait().await;
        }
        self.close_file();
        while self.draining.get() {
            self.changed.wait().await;
        }
        journal.close().await
    }
}

#[derive(Clone, Copy)]
enum Step {
    /// To the segments, whose files stay open if `keep` says so.
    Write { keep: bool },
    /// Makes it durable there.
    Settle,
    /// It is: everything before `written`.
    Synced { written: Offset },
}
