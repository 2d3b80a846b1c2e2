//! This broker's seat in the cluster, on shard 0: it registers at a start, says that it lives, and
//! takes its leave at a stop. Until the controller has let it in, no partition gets a place.
//!
//! Invariants: what the seat is reaches each shard in the order in which it came about, and the
//! image that it rests on before it. A broker that nobody could take anything over from stops
//! without a word: the next run of it registers again, and nothing was led by others meanwhile.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use futures_lite::future::or;
use streamd_core::control::{Ask, NewIsr, Seat, SeatEffect, Times, Token};
use streamd_core::meta::{ClusterCommand, ClusterImage, Command, Registration};
use streamd_io::local::Notify;
use streamd_io::{Class, Env};
use streamd_model::{ErrorCode, Mono, NodeId, PartitionId, ShardId};

use crate::drive_meta::{Meta, TICK};
use crate::mesh::Request;
use crate::shard::Shard;

/// A stop does not wait longer for the controller's leave.
const LEAVE_MAX: Duration = Duration::from_secs(5);

/// What the broker's seat is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seated {
    /// The broker's epoch, once it is registered.
    epoch: Option<i64>,
    /// Until when leaders on this node may act.
    lease: Mono,
    /// Who the controller is, as far as this node knows.
    pub(crate) controller: Option<NodeId>,
}

/// What a shard knows of the seat; shard 0 has it.
pub(crate) struct Seating {
    now: Cell<Seated>,
    driver: RefCell<Option<Rc<Driver>>>,
}

impl Default for Seating {
    fn default() -> Seating {
        let none = Seated {
            epoch: None,
            lease: Mono(0),
            controller: None,
        };
        Seating {
            now: Cell::new(none),
            driver: RefCell::default(),
        }
    }
}

impl Seating {
    /// Shard 0 has taken the seat.
    pub fn take(&self, driver: Rc<Driver>) {
        *self.driver.borrow_mut() = Some(driver);
    }

    /// A leader's wish, on shard 0.
    pub fn wish(&self, set: NewIsr) {
        // Who has left wishes for nothing.
        if let Some(driver) = &*self.driver.borrow() {
            driver.seat.borrow_mut().wish(set);
            driver.soon.notify_all();
        }
    }
}

/// The seat, and who it asks.
pub(crate) struct Driver {
    env: Env,
    meta: Rc<Meta>,
    /// The image that counts is the one that the shards have.
    shard: Weak<Shard>,
    seat: RefCell<Seat>,
    /// Notified when there is something to do at once.
    soon: Notify,
    may_stop: Cell<bool>,
    /// Notified when the broker may stop.
    stops: Notify,
    left: Cell<bool>,
}

/// Whether the cluster would take this broker, as far as is known: the image may lag behind.
///
/// # Errors
/// Why not.
pub(crate) fn look(image: &ClusterImage, told: &Registration, lags: bool) -> Result<(), String> {
    let mut told = told.clone();
    if lags {
        // The level may have risen since.
        told.features.0 = 0;
    }
    let command = Command::Cluster(ClusterCommand::Register(told));
    image.admit(&command).map_err(|(_, why)| why)
}

impl Driver {
    /// Takes the seat.
    pub fn begin(shard: &Rc<Shard>, meta: &Rc<Meta>, told: Registration) -> Rc<Driver> {
        let driver = Rc::new(Driver {
            env: shard.env.clone(),
            meta: meta.clone(),
            shard: Rc::downgrade(shard),
            seat: RefCell::new(Seat::new(told, Times::default())),
            soon: Notify::default(),
            may_stop: Cell::new(false),
            stops: Notify::default(),
            left: Cell::new(false),
        });
        let this = driver.clone();
        let hold = async move { this.hold().await };
        shard.env.spawn(Class::Latency, hold).detach();
        driver
    }

    async fn hold(self: &Rc<Self>) {
        let mut told = None;
        while !self.meta.is_over() && !self.left.get() {
            let soon = or(self.soon.wait(), self.meta.roles().wait());
            let Some(shard) = self.shard.upgrade() else {
                return;
            };
            // Nobody is asked before there is somebody to answer.
            if self.meta.has_controller() {
                let version = shard.image().version();
                let effects = self.seat.borrow_mut().tick(version, self.env.now());
                self.effects(effects);
            }
            let seated = self.seated();
            if told != Some(seated) {
                told = Some(seated);
                shard.tell_seated(seated).await;
            }
            drop(shard);
            let tick = async {
                self.env.sleep(TICK).await;
            };
            or(soon, tick).await;
        }
    }

    fn seated(&self) -> Seated {
        let seat = self.seat.borrow();
        Seated {
            epoch: seat.epoch(),
            lease: seat.lease(),
            controller: self.meta.controller(),
        }
    }

    fn effects(self: &Rc<Self>, effects: Vec<SeatEffect>) {
        for effect in effects {
            match effect {
                SeatEffect::Ask(token, ask) => {
                    let this = self.clone();
                    let ask = async move { this.ask(token, ask).await };
                    self.env.spawn(Class::Latency, ask).detach();
                }
                // The first heartbeat brings the lease; then every shard is told.
                SeatEffect::Registered(_) | SeatEffect::Lease(_) => self.soon.notify_all(),
                SeatEffect::MayStop => {
                    self.may_stop.set(true);
                    self.stops.notify_all();
                }
                SeatEffect::Refused(why) => self.meta.stop(why),
                SeatEffect::Altered(id, code) => self.altered(id, code),
            }
        }
    }

    fn altered(&self, id: PartitionId, code: ErrorCode) {
        let Some(shard) = self.shard.upgrade() else {
            return;
        };
        let owner = shard.owner(id);
        let tell = async move { drop(shard.ask(owner, Request::Altered(id, code)).await) };
        self.env.spawn(Class::Latency, tell).detach();
    }

    async fn ask(self: &Rc<Self>, token: Token, ask: Ask) {
        let outcome = self.meta.ask(ask).await;
        let now = self.env.now();
        let effects = self.seat.borrow_mut().answer(token, outcome, now);
        self.effects(effects);
    }

    /// Takes the leave of the controller, if somebody else could lead what is led here.
    async fn leave(&self, image: &ClusterImage) {
        let mut brokers = image.cluster().brokers();
        if brokers.any(|b| b.told.node != image.node() && b.is_active()) {
            let stops = self.stops.wait();
            self.seat.borrow_mut().leave();
            self.soon.notify_all();
            if !self.may_stop.get() && !self.meta.is_over() {
                let late = async {
                    self.env.sleep(LEAVE_MAX).await;
                };
                or(stops, late).await;
            }
        }
        self.left.set(true);
        self.soon.notify_all();
        self.meta.hand_over().await;
    }
}

impl Shard {
    /// The broker's epoch, if this shard's image knows of this run of it: an earlier one says what
    /// the run before this one was to do.
    pub fn acts(&self) -> Option<i64> {
        let epoch = self.seating.now.get().epoch?;
        let image = self.image();
        let broker = image.cluster().broker(image.node())?;
        (broker.epoch == epoch).then_some(epoch)
    }

    /// What the broker's seat is.
    pub(crate) fn seated(&self) -> Seated {
        self.seating.now.get()
    }

    /// Until when leaders on this node may act.
    pub fn lease(&self) -> Mono {
        self.seating.now.get().lease
    }

    /// A leader here wants another in-sync set: the controller is asked until it has answered. A
    /// later wish for the partition replaces this one.
    pub fn wish(&self, set: NewIsr) {
        if self.mesh.id() == ShardId(0) {
            self.seating.wish(set);
            return;
        }
        let Some(shard) = self.weak().upgrade() else {
            return;
        };
        let send = async move {
            // Its place in the queue is all that counts.
            drop(shard.mesh.call(ShardId(0), Request::Wish(set)).await);
        };
        self.env.spawn(Class::Latency, send).detach();
    }

    /// What the seat is now. Whoever replicates is told of a registration at once, and of a lease
    /// in time.
    pub(crate) fn sit(&self, seated: Seated) {
        let before = self.seating.now.replace(seated);
        let new = before.epoch != seated.epoch || before.lease < self.env.now();
        let Some(shard) = self.weak().upgrade().filter(|_| new) else {
            return;
        };
        let tell = async move { shard.registered().await };
        self.env.spawn(Class::Latency, tell).detach();
    }

    async fn tell_seated(&self, seated: Seated) {
        self.sit(seated);
        for shard in 1..self.mesh.shards() {
            let to = ShardId(shard as u16);
            drop(self.mesh.call(to, Request::Seated(seated)).await);
        }
    }

    /// Takes the controller's leave (shard 0), while all shards still follow the image. A broker
    /// that nobody else could take over from does not wait.
    pub async fn leave(&self) {
        let driver = self.seating.driver.borrow().clone();
        if let Some(driver) = driver {
            driver.leave(&self.image()).await;
            self.seating.driver.take();
        }
    }
}
