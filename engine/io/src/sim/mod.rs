//! The simulator arm: one thread, simulated time, a seeded scheduler, a disk that forgets.
//!
//! A [`Sim`] holds what outlives a crash (the disk and the clock); each `run` is one life of a
//! process on it. Everything random comes from the seed, so a seed repeats its run exactly; the
//! trace hash proves it.

mod disk;
mod exec;
mod faults;
mod file;
mod net;
mod rng;
mod seeds;
mod sent;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::future::Future;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

pub(crate) use exec::{Env, FileSystem};
pub(crate) use file::{File, SharedIno};
pub(crate) use net::{Accepted, Listener, ReadHalf, Stream, WriteHalf};

use disk::DiskState;
use exec::{Outcome, World};
pub use faults::{DiskOp, Fault};
use rng::Rng;
pub use seeds::each_seed;
pub use sent::sent;

/// What the simulated machine is like.
#[derive(Clone, Debug)]
pub struct SimOptions {
    /// How long a disk operation takes (microseconds).
    pub disk_us: Range<u64>,
    /// Of a million disk operations so many fail with EIO.
    pub eio_per_million: u32,
    /// Space of the disk in bytes; `None`: endless.
    pub capacity: Option<u64>,
    /// `run_until_crash` stops after a number of turns out of this range (small ones are as
    /// likely as large ones: the logarithm is uniform).
    pub crash_turns: Range<u64>,
    /// More turns than this in one run is a live-lock: it panics.
    pub turns_max: u64,
    /// Wall time when the first run starts (ms since the Unix epoch).
    pub wall_start_ms: i64,
}

impl Default for SimOptions {
    fn default() -> SimOptions {
        SimOptions {
            disk_us: 20..300,
            eio_per_million: 0,
            capacity: None,
            crash_turns: 1..5_000,
            turns_max: 50_000_000,
            wall_start_ms: 1_700_000_000_000,
        }
    }
}

/// A simulated machine.
pub struct Sim {
    seed: u64,
    options: SimOptions,
    rng: Rng,
    disk: Rc<RefCell<DiskState>>,
    now: u64,
    hash: u64,
}

impl Sim {
    /// A machine with an empty disk.
    pub fn new(seed: u64, options: SimOptions) -> Sim {
        let disk = Rc::new(RefCell::new(DiskState::new(&options)));
        Sim {
            seed,
            options,
            rng: Rng::new(seed),
            disk,
            now: 1_000_000,
            hash: 0,
        }
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Runs `main` to its end, then drops all other tasks (a clean exit of the process). Panics,
    /// naming the seed, when nothing can go on any more.
    pub fn run<F, Fut, T>(&mut self, main: F) -> T
    where
        F: FnOnce(crate::Env) -> Fut,
        Fut: Future<Output = T> + 'static,
        T: 'static,
    {
        self.run_turns(u64::MAX, main)
            .expect("without a limit a run ends or panics")
    }

    /// Like [`Sim::run`], but the process dies after a random number of turns
    /// ([`SimOptions::crash_turns`]): `None`, unless `main` ended before.
    pub fn run_until_crash<F, Fut, T>(&mut self, main: F) -> Option<T>
    where
        F: FnOnce(crate::Env) -> Fut,
        Fut: Future<Output = T> + 'static,
        T: 'static,
    {
        let turns = self.rng.log_range(self.options.crash_turns.clone());
        self.run_turns(turns, main)
    }

    /// Like [`Sim::run_until_crash`] with the number of turns given.
    pub fn run_turns<F, Fut, T>(&mut self, turns: u64, main: F) -> Option<T>
    where
        F: FnOnce(crate::Env) -> Fut,
        Fut: Future<Output = T> + 'static,
        T: 'static,
    {
        let _seed = PrintSeed(self.seed);
        let rng = Rng::new(self.rng.next());
        let world = World::new(
            self.options.clone(),
            rng,
            self.disk.clone(),
            self.now,
            self.hash,
        );
        let env = crate::Env(crate::env::Kind::Sim(Env::new(world.clone())));
        let future = main(env.clone());
        let task = env.spawn(crate::Class::Latency, future);
        let outcome = world.run(task, turns);
        world.close();
        self.disk.borrow_mut().end_process(&mut self.rng);
        self.now = world.now() + 1_000_000;
        self.hash = world.hash();
        match outcome {
            Outcome::Done(value) => Some(value),
            Outcome::Crashed => None,
            Outcome::Deadlock => panic!(
                "sim seed {:#x}: nothing can go on: no task is ready and no timer is set",
                self.seed
            ),
            Outcome::Livelock => panic!(
                "sim seed {:#x}: no end after {} turns",
                self.seed, self.options.turns_max
            ),
        }
    }

    /// The power goes: what was not made durable is kept, lost or torn at random. A crash of the
    /// process alone (kill -9) is a run that ended, without this call.
    pub fn power_cut(&mut self) {
        self.disk.borrow_mut().power_cut(&mut self.rng);
    }

    /// The disk, to look at and to damage.
    pub fn disk(&self) -> Disk {
        Disk(self.disk.clone())
    }

    /// A hash over everything that happened: turns, times, disk operations.
    pub fn trace_hash(&self) -> u64 {
        self.hash
    }

    /// Lets simulated time pass between two runs.
    pub fn advance(&mut self, d: Duration) {
        self.now += d.as_nanos() as u64;
    }
}

/// Prints the seed when a run panics.
struct PrintSeed(u64);

impl Drop for PrintSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("sim seed {:#x}: the run panicked", self.0);
        }
    }
}

/// The simulated disk from outside.
#[derive(Clone)]
pub struct Disk(Rc<RefCell<DiskState>>);

impl Disk {
    /// The whole file as programs see it now; `None` if there is none.
    pub fn read(&self, path: &Path) -> Option<Vec<u8>> {
        self.0.borrow().read_whole(path)
    }

    /// Puts a file there, durable at once. The directory must be there.
    pub fn write(&self, path: &Path, bytes: &[u8]) {
        self.0.borrow_mut().write_whole(path, bytes);
    }

    /// All files, sorted.
    pub fn files(&self) -> Vec<PathBuf> {
        self.0.borrow().files()
    }

    /// Flips one bit of the byte at `pos` for good (bit rot). Panics if the byte is not there.
    pub fn flip(&self, path: &Path, pos: u64) {
        self.0.borrow_mut().flip(path, pos);
    }

    /// From now on so many of a million operations fail with EIO.
    pub fn set_eio(&self, per_million: u32) {
        self.0.borrow_mut().eio_per_million = per_million;
    }

    /// From now on these faults strike, and no others but those of [`Disk::set_eio`].
    pub fn set_faults(&self, faults: Vec<Fault>) {
        self.0.borrow_mut().faults = faults;
    }

    /// From now on the disk has this capacity in bytes.
    pub fn set_capacity(&self, capacity: Option<u64>) {
        self.0.borrow_mut().capacity = capacity;
    }

    /// Bytes that files take now.
    pub fn used(&self) -> u64 {
        self.0.borrow().used()
    }
}
