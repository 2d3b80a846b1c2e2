//! A broker under questions, and the requests that several of them need.

use std::thread::sleep;
use std::time::Duration;

use streamd_tests::client::now_ms;
use streamd_tests::wire::{Answer, Body, Connection};

/// The leader is not here, the coordinator is loading, not available, not here: asked again.
const NOT_YET: [i16; 4] = [6, 14, 15, 16];

pub struct Lab {
    pub addr: String,
    pub c: Connection,
    run: u64,
    /// Questions and answers, in order.
    pub found: Vec<(String, String)>,
}

/// A member after its JoinGroup.
#[derive(Clone, Debug, Default)]
pub struct Joined {
    pub error: i16,
    pub generation: i32,
    pub id: String,
}

/// A producer's id and epoch.
pub type Who = (i64, i16);

impl Lab {
    pub fn open(addr: &str) -> Self {
        Self {
            addr: addr.to_owned(),
            c: Connection::open(addr),
            run: now_ms(),
            found: Vec::new(),
        }
    }

    /// A name that no earlier run has used.
    pub fn name(&self, stem: &str) -> String {
        format!("{stem}-{}", self.run)
    }

    pub fn note(&mut self, question: &str, answer: impl ToString) {
        let name = question.to_owned();
        assert!(
            self.found.iter().all(|(n, _)| *n != name),
            "{name} is asked twice"
        );
        self.found.push((name, answer.to_string()));
    }

    pub fn call(&mut self, key: i16, version: i16, body: &Body) -> Answer {
        self.c.call(key, version, body).expect("an answer")
    }

    /// Asks for a code until the coordinator is there.
    pub fn code(&mut self, mut ask: impl FnMut(&mut Self) -> i16) -> i16 {
        for _ in 0..600 {
            let code = ask(self);
            if !NOT_YET.contains(&code) {
                return code;
            }
            sleep(Duration::from_millis(50));
        }
        panic!("the coordinator does not come");
    }

    pub fn topic(&mut self, stem: &str, partitions: i32) -> String {
        let name = self.name(stem);
        self.c.create_topic(&name, partitions, &[]);
        name
    }

    /// Makes the coordinator of a group (0) or a transactional id (1) known.
    pub fn find(&mut self, key: &str, kind: i8) {
        self.code(|lab| {
            let mut a = lab.call(10, 1, &Body::default().string(key).i8(kind));
            (a.i32(), a.i16()).1
        });
        if kind == 0 {
            // It may have to load its groups yet.
            self.heartbeat(key, 1, "nobody");
        }
    }

    pub fn heartbeat(&mut self, group: &str, generation: i32, member: &str) -> i16 {
        let body = Body::default().string(group).i32(generation).string(member);
        self.code(|lab| {
            let mut a = lab.call(12, 2, &body);
            (a.i32(), a.i16()).1
        })
    }

    pub fn leave(&mut self, group: &str, member: &str) -> i16 {
        let body = Body::default().string(group).string(member);
        self.code(|lab| {
            let mut a = lab.call(13, 2, &body);
            (a.i32(), a.i16()).1
        })
    }

    /// A SyncGroup in which a leader gives each of these members something.
    pub fn sync(&mut self, group: &str, m: &Joined, members: &[&str]) -> i16 {
        let body = Body::default()
            .string(group)
            .i32(m.generation)
            .string(&m.id);
        let body = members
            .iter()
            .fold(body.i32(members.len() as i32), |b, id| {
                b.string(id).bytes(b"x")
            });
        self.code(|lab| {
            let mut a = lab.call(14, 2, &body);
            (a.i32(), a.i16()).1
        })
    }

    /// A member alone in a group, stable.
    pub fn member(&mut self, group: &str) -> Joined {
        self.find(group, 0);
        let body = join(group, "", 10_000, "consumer", &["range"]);
        let mut a = self.call(11, 3, &body);
        let m = joined(&mut a);
        assert_eq!(
            (m.error, self.sync(group, &m, &[&m.id])),
            (0, 0),
            "a member"
        );
        m
    }

    /// OffsetCommit version 5 of one partition; -1 as the code when there is none.
    pub fn commit(&mut self, group: &str, who: (i32, &str), at: (&str, i32), meta: &str) -> i16 {
        let body = Body::default().string(group).i32(who.0).string(who.1);
        let body = body
            .i32(1)
            .string(at.0)
            .i32(1)
            .i32(at.1)
            .i64(5)
            .string(meta);
        self.code(|lab| {
            let mut a = lab.call(8, 5, &body);
            let (_throttle, topics) = (a.i32(), a.i32());
            if topics == 0 {
                return -1;
            }
            (a.string(), a.i32(), a.i32(), a.i16()).3
        })
    }

    pub fn init_producer(&mut self, id: &str, timeout_ms: i32) -> (i16, Who) {
        let body = Body::default().string(id).i32(timeout_ms);
        let mut who = (-1, -1);
        for _ in 0..600 {
            let mut a = self.call(22, 1, &body);
            let error = (a.i32(), a.i16()).1;
            who = (a.i64(), a.i16());
            // 51: an earlier transaction is being ended.
            if error != 51 && !NOT_YET.contains(&error) {
                return (error, who);
            }
            sleep(Duration::from_millis(50));
        }
        panic!("no producer id: {who:?}");
    }
}

/// Body of JoinGroup version 2 to 4.
pub fn join(group: &str, member: &str, session: i32, kind: &str, protocols: &[&str]) -> Body {
    let body = Body::default().string(group).i32(session).i32(10_000);
    let body = body.string(member).string(kind).i32(protocols.len() as i32);
    protocols
        .iter()
        .fold(body, |b, p| b.string(p).bytes(b"meta"))
}

/// Reads the answer to it.
pub fn joined(a: &mut Answer) -> Joined {
    let (_throttle, error, generation) = (a.i32(), a.i16(), a.i32());
    let (_protocol, _leader, id) = (a.string(), a.string(), a.string());
    Joined {
        error,
        generation,
        id,
    }
}
