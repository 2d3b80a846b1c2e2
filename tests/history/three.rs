//! Three brokers that make a cluster, each in a namespace and on a file system of its own where
//! those may be made.

use std::thread::scope;
use std::time::Instant;

use streamd_tests::broker::{Broker, Site};
use streamd_tests::clock::Clock;
use streamd_tests::disk::SmallDisk;
use streamd_tests::net::Net;
use streamd_tests::nodes::{Node, three};
use streamd_tests::wire::Connection;

use crate::nemesis::{Arena, Moments, kill, pause};

/// Longer than a broker's session lasts.
const LONG: (u64, u64) = (500, 12_000);

/// Of the file system of a broker.
const DISK_MIB: u64 = 2048;

pub struct Three {
    brokers: Vec<Broker>,
    /// Both go when they have ended.
    net: Option<Net>,
    disks: Option<Vec<SmallDisk>>,
    clocks: Vec<Clock>,
}

impl Three {
    pub fn start() -> Three {
        let net = Net::new(3);
        if let Err(why) = &net {
            eprintln!("no network of its own, so none is cut: {why}");
        }
        let net = net.ok();
        let disks: Result<Vec<_>, _> = (0..3).map(|_| SmallDisk::mount(DISK_MIB)).collect();
        if let Err(why) = &disks {
            eprintln!("no file systems of their own, so none is filled: {why}");
        }
        let disks = disks.ok();
        let clocks: Vec<Clock> = (0..3).map(|_| Clock::new()).collect();
        let nodes = three(|id, contact| {
            let n = id - 1;
            let site = Site {
                data: disks.as_ref().map(|disks| disks[n].path().join("data")),
                place: net.as_ref().map(|net| net.places()[n].clone()),
                clock: Some(clocks[n].clone()),
                ..Site::default()
            };
            let options = [
                "--memory=256MiB",
                "--set=group.initial.rebalance.delay.ms=0",
                "--set=group.consumer.heartbeat.interval.ms=300",
            ];
            Node::start(site, (id, contact), &options)
        });
        let brokers = nodes.into_iter().map(|node| node.broker).collect();
        Three {
            brokers,
            net,
            disks,
            clocks,
        }
    }

    /// What the broker says to these, and they to it, gets lost, or only one way.
    fn cut(&self, one: usize, others: &[usize], ways: (bool, bool), moments: &mut Moments) {
        let Some(net) = &self.net else {
            return moments.wait(0, 100);
        };
        for &other in others {
            if ways.0 {
                net.cut(one, other);
            }
            if ways.1 {
                net.cut(other, one);
            }
        }
        moments.wait(LONG.0, LONG.1);
        for &other in others {
            net.heal(one, other);
            net.heal(other, one);
        }
    }

    /// Packets between the broker and the others get lost, some at a time, both ways.
    fn lose(&self, one: usize, others: &[usize], moments: &mut Moments) {
        let Some(net) = &self.net else {
            return moments.wait(0, 100);
        };
        let until = Instant::now() + moments.millis(LONG.0, LONG.1);
        while Instant::now() < until {
            for &other in others {
                net.cut(one, other);
                net.cut(other, one);
            }
            moments.wait(1, 60);
            for &other in others {
                net.heal(one, other);
                net.heal(other, one);
            }
            moments.wait(1, 200);
        }
    }

    /// What the broker sends waits, up to half a second; what would wait longer gets lost.
    fn delay(&self, one: usize, moments: &mut Moments) {
        let Some(net) = &self.net else {
            return moments.wait(0, 100);
        };
        net.slow(one, 256 << moments.below(6));
        moments.wait(LONG.0, LONG.1);
        net.fast(one);
    }

    /// The disk of the broker is full, or almost.
    fn fill(&self, one: usize, moments: &mut Moments) {
        let Some(disks) = &self.disks else {
            return moments.wait(0, 100);
        };
        disks[one].fill(moments.below(3) * moments.below(200 << 20));
        moments.wait(LONG.0, LONG.1);
        disks[one].give_back();
    }

    /// The clock of the broker goes by up to an hour, both ways, or trembles.
    fn turn(&self, one: usize, moments: &mut Moments) {
        let clock = &self.clocks[one];
        match moments.below(3) {
            0 => {
                for _ in 0..100 {
                    clock.set(moments.below(2000) as i64 - 1000);
                    moments.wait(1, 40);
                }
            }
            _ => {
                clock.set(moments.below(7_200_000) as i64 - 3_600_000);
                moments.wait(LONG.0, LONG.1);
            }
        }
        clock.set(0);
    }
}

impl Arena for Three {
    fn boot(&self) -> String {
        let addrs: Vec<String> = self.brokers.iter().map(Broker::addr).collect();
        addrs.join(",")
    }

    fn create_topic(&self, name: &str, partitions: i32) {
        let configs = [("segment.bytes", "1048576")];
        let mut any = Connection::open(&self.brokers[0].addr());
        any.create_replicated((name, partitions, 3), &configs);
    }

    fn faults(&self) -> &'static [(&'static str, u64)] {
        match self.net {
            Some(_) => &[
                ("kill one", 25),
                ("kill one, then another", 10),
                ("kill all", 5),
                ("pause one", 10),
                ("isolate one", 10),
                ("cut one way", 10),
                ("cut a pair", 10),
                ("lose packets", 10),
                ("delay packets", 10),
                ("fill a disk", 10),
                ("turn a clock", 10),
            ],
            None => &[
                ("kill one", 50),
                ("kill one, then another", 15),
                ("kill all", 10),
                ("pause one", 15),
                ("turn a clock", 10),
            ],
        }
    }

    fn strike(&mut self, fault: &str, moments: &mut Moments) {
        let one = moments.below(3) as usize;
        let others = [(one + 1) % 3, (one + 2) % 3];
        match fault {
            "kill one" => kill(&mut self.brokers[one], moments),
            "kill one, then another" => {
                kill(&mut self.brokers[one], moments);
                moments.wait(0, 2000);
                kill(&mut self.brokers[others[0]], moments);
            }
            "kill all" => {
                self.brokers.iter_mut().for_each(Broker::kill);
                moments.wait(0, 1000);
                // None of them is ready before another one is.
                scope(|scope| {
                    for broker in &mut self.brokers {
                        scope.spawn(|| broker.start_again());
                    }
                });
            }
            "lose packets" => self.lose(one, &others, moments),
            "delay packets" => self.delay(one, moments),
            "turn a clock" => self.turn(one, moments),
            "fill a disk" => self.fill(one, moments),
            "pause one" => pause(&self.brokers[one], moments, LONG),
            "isolate one" => self.cut(one, &others, (true, true), moments),
            "cut one way" => {
                let out = moments.below(2) == 0;
                self.cut(one, &others, (out, !out), moments);
            }
            _ => self.cut(one, &others[..1], (true, true), moments),
        }
    }
}
