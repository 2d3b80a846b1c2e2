//! Many connections, and such that take without giving: idle ones, tiny ones, deaf and stuck ones.

use std::time::{Duration, Instant};

use streamd_tests::batch::Batch;
use streamd_tests::broker::{Broker, resident};
use streamd_tests::wire::{Body, Connection, fetch_body, frame};

use crate::Fixture;

const API_VERSIONS: i16 = 18;
const IDLE: usize = 5000;
/// Memory that 5,000 connections with nothing to do may take.
const IDLE_BYTES_MAX: u64 = 128 << 20;

fn resident_now(fixture: &Fixture) -> u64 {
    fixture
        .broker
        .as_ref()
        .and_then(Broker::pid)
        .map_or(0, |pid| resident(pid).0)
}

#[test]
fn five_thousand_idle_connections() {
    let fixture = Fixture::shared();
    let _turn = fixture.turn();
    let before = resident_now(&fixture);
    let mut idle: Vec<Connection> = (0..IDLE).map(|_| fixture.connect()).collect();
    fixture.assert_serves_on();
    for connection in idle.iter_mut().step_by(10) {
        let answer = connection.call(API_VERSIONS, 0, &Body::default());
        assert_eq!(
            answer
                .expect("an idle connection is served when it asks")
                .i16(),
            0
        );
    }
    let grown = resident_now(&fixture).saturating_sub(before);
    assert!(
        grown <= IDLE_BYTES_MAX,
        "5,000 idle connections took {} MiB",
        grown >> 20
    );
    drop(idle);
    fixture.assert_serves_on();
}

/// However the system spreads connections over the cores, all of `max.connections` are to be had,
/// and no more; and connections that one core accepted and another serves are as good as others.
#[test]
fn the_last_connection() {
    const MAX: usize = 9;
    if Fixture::shared().broker.is_none() {
        return;
    }
    let broker = Broker::start(&["--set", &format!("max.connections={MAX}")]);
    let answers = |connection: &mut Connection| {
        let answer = connection.call(API_VERSIONS, 0, &Body::default());
        answer.is_ok_and(|mut answer| answer.i16() == 0)
    };
    // The broker may not have seen yet that those of the round before are gone.
    let fill = || -> Vec<Connection> {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let connect = |_| Connection::open(&broker.addr());
            let mut open: Vec<Connection> = (0..MAX).map(connect).collect();
            if open.iter_mut().all(answers) {
                return open;
            }
            assert!(Instant::now() < until, "{MAX} connections are not served");
            drop(open);
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    for round in 0..20 {
        let _open = fill();
        let mut more = Connection::open(&broker.addr());
        assert!(!answers(&mut more), "round {round}: one too many is served");
    }
}

/// `STREAMD_TINY_CONNECTIONS` sets how many; a million take some minutes.
#[test]
fn tiny_connections_in_sequence() {
    let fixture = Fixture::shared();
    let _turn = fixture.turn();
    let count = std::env::var("STREAMD_TINY_CONNECTIONS").ok();
    let count: u64 = count.map_or(20_000, |n| {
        n.parse().expect("STREAMD_TINY_CONNECTIONS: a count")
    });
    let addr = fixture.addr();
    let request = frame(API_VERSIONS, 0, 1, &[]);
    let mut after_warmup = 0;
    for i in 0..count {
        if i == count / 10 {
            after_warmup = resident_now(&fixture);
        }
        let mut connection = Connection::open(&addr);
        match i % 3 {
            0 => {}
            1 => connection
                .send_raw(&request)
                .expect("a fresh connection takes bytes"),
            _ => {
                connection
                    .send_raw(&request)
                    .expect("a fresh connection takes bytes");
                connection.receive_raw().expect("an answer");
            }
        }
    }
    fixture.assert_serves_on();
    let grown = resident_now(&fixture).saturating_sub(after_warmup);
    assert!(
        grown <= 32 << 20,
        "{count} tiny connections leaked {} MiB",
        grown >> 20
    );
}

/// Clients ask for 200 MB each, a megabyte at a time, and read nothing.
#[test]
fn readers_that_never_read() {
    let fixture = Fixture::shared();
    let _turn = fixture.turn();
    let topic = fixture.topic("deaf", &[]);
    let mut writer = fixture.connect();
    for _ in 0..16 {
        let produced = writer.produce(&topic, 0, &Batch::of(&[vec![7u8; 900_000]]).encode());
        assert_eq!(produced.expect("an answer").error, 0);
    }
    let deaf: Vec<Connection> = (0..40)
        .map(|_| {
            let mut connection = fixture.connect();
            connection
                .stream()
                .set_write_timeout(Some(Duration::from_millis(200)))
                .expect("a socket");
            for i in 0..200 {
                let body = fetch_body(&topic, 0, i % 16, 1 << 20);
                if connection.send(1, 10, &body).is_err() {
                    break; // the broker has stopped to take requests, as it should
                }
            }
            connection
        })
        .collect();
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        fixture.assert_serves_on();
    }
    drop(deaf);
    fixture.assert_serves_on();
}

/// Each announces a megabyte or a hundred, sends little of it, and stays. Kafka sets aside all
/// that is announced, and dies of the hundreds; it is spared them.
#[test]
fn writers_that_stop_in_the_middle_of_a_frame() {
    let fixture = Fixture::shared();
    let _turn = fixture.turn();
    let mut stuck = Vec::new();
    let huge = if fixture.broker.is_some() {
        100 << 20
    } else {
        1 << 20
    };
    for (count, length, sent) in [(300, 1 << 20, 20), (100, huge, 500), (50, 1 << 20, 200_000)] {
        for _ in 0..count {
            let mut connection = fixture.connect();
            let mut bytes = i32::to_be_bytes(length).to_vec();
            bytes.extend(&frame(0, 7, 1, &[0; 16])[4..]);
            bytes.resize(sent, 0);
            let timeout = Some(Duration::from_millis(200));
            connection
                .stream()
                .set_write_timeout(timeout)
                .expect("a socket");
            let _ = connection.send_raw(&bytes); // it may be refused or not be taken yet
            stuck.push(connection);
        }
    }
    fixture.assert_serves_on();
    drop(stuck);
    fixture.assert_serves_on();
}
