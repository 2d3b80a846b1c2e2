//! One broker behind a relay.

use std::net::TcpListener;

use rustix::process::Signal;
use streamd_tests::broker::Broker;
use streamd_tests::wire::Connection;

use crate::nemesis::{Arena, Moments, kill, pause};
use crate::relay::Relay;

pub struct One {
    pub relay: Relay,
    broker: Broker,
}

/// A free port that no outgoing connection takes meanwhile.
fn free_port() -> u16 {
    let first = 24_000 + (std::process::id() % 400) as u16;
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (first..first + 400).find(free).expect("a free port")
}

impl One {
    pub fn start() -> One {
        let relay = Relay::listen(free_port());
        let options = [
            "--advertise",
            &relay.addr(),
            "--set",
            "group.initial.rebalance.delay.ms=0",
            "--set",
            "group.consumer.heartbeat.interval.ms=300",
        ];
        let broker = Broker::start(&options);
        relay.serve(broker.addr());
        One { relay, broker }
    }
}

impl Arena for One {
    fn boot(&self) -> String {
        self.relay.addr()
    }

    fn create_topic(&self, name: &str, partitions: i32) {
        let configs = [("segment.bytes", "1048576")];
        Connection::open(&self.broker.addr()).create_topic(name, partitions, &configs);
    }

    fn faults(&self) -> &'static [(&'static str, u64)] {
        &[
            ("kill", 25),
            ("pause", 12),
            ("pause and kill", 8),
            ("kill twice", 8),
            ("cut all connections", 12),
            ("cut some connections", 17),
            ("stall", 10),
        ]
    }

    fn strike(&mut self, fault: &str, moments: &mut Moments) {
        let broker = &mut self.broker;
        match fault {
            "kill" => kill(broker, moments),
            "pause" => pause(broker, moments, (100, 4000)),
            "pause and kill" => {
                broker.signal(Signal::STOP);
                moments.wait(10, 1500);
                kill(broker, moments);
            }
            // While it starts again.
            "kill twice" => {
                kill(broker, moments);
                moments.wait(0, 200);
                kill(broker, moments);
            }
            "cut all connections" => self.relay.cut(|| true),
            "cut some connections" => self.relay.cut(|| moments.below(2) == 0),
            _ => self.relay.stall(moments.millis(100, 4000)),
        }
    }
}
