//! Consumers that say which rack they are in read from the replica there (KIP-392), and from the
//! leader when it is gone.

use std::time::Duration;

use streamd_tests::batch::Batch;
use streamd_tests::broker::Site;
use streamd_tests::child::Child;
use streamd_tests::client::Client;
use streamd_tests::wire::{Body, Connection};

use super::{Cluster, until};

const PATIENCE: Duration = Duration::from_secs(60);
const SELECTOR: &str =
    "replica.selector.class=org.apache.kafka.common.replica.RackAwareReplicaSelector";
/// Records of a round.
const ROUND: usize = 3_000;

/// Each node is in a rack of its own.
fn racks() -> Cluster {
    Cluster::of(|id| {
        let flags = [
            "--set".to_owned(),
            SELECTOR.to_owned(),
            format!("--rack=r{id}"),
        ];
        (Site::default(), flags.to_vec())
    })
}

fn produce(cluster: &Cluster) {
    let leader = cluster.places("t").expect("it is there")[&0].0;
    let mut to = Connection::open(&cluster.0[leader as usize - 1].broker.addr());
    for _ in 0..ROUND / 100 {
        let batch = Batch::of(&vec![[b'x'; 200]; 100]).encode();
        assert_eq!(to.produce("t", 0, &batch).expect("an answer").error, 0);
    }
}

/// What a Fetch of version 11 from a rack is answered with: the error, who is to be asked instead,
/// and how many bytes of records come.
fn fetch(cluster: &Cluster, node: i32, (offset, rack): (i64, &str)) -> (i16, i32, usize) {
    let mut to = Connection::open(&cluster.0[node as usize - 1].broker.addr());
    let body = Body::default().i32(-1).i32(100).i32(1).i32(1 << 20).i8(0);
    let body = body.i32(0).i32(-1).i32(1).string("t").i32(1).i32(0);
    let body = body.i32(-1).i64(offset).i64(-1).i32(1 << 20).i32(0);
    let mut answer = to.call(1, 11, &body.string(rack)).expect("an answer");
    let (_throttle, whole, _session) = (answer.i32(), answer.i16(), answer.i32());
    assert_eq!((whole, answer.i32()), (0, 1));
    let (_topic, _count, _index) = (answer.string(), answer.i32(), answer.i32());
    let (error, _high) = (answer.i16(), answer.i64());
    let (_stable, _start, _aborted) = (answer.i64(), answer.i64(), answer.i32());
    (error, answer.i32(), answer.bytes().len())
}

#[test]
fn who_is_in_a_rack_reads_there() {
    const OUT_OF_RANGE: i16 = 1;
    const NOT_AVAILABLE: i16 = 78;
    let mut cluster = racks();
    cluster.topic("t", 1);
    produce(&cluster);
    let leader = cluster.places("t").expect("it is there")[&0].0;
    let near = leader % 3 + 1;
    let rack = format!("r{near}");
    let (first, beyond) = ((0, rack.as_str()), (1 << 40, rack.as_str()));
    assert_eq!(fetch(&cluster, leader, first), (0, near, 0));
    for rack in ["", "elsewhere", &format!("r{leader}")] {
        let (error, instead, bytes) = fetch(&cluster, leader, (0, rack));
        assert_eq!((error, instead), (0, -1));
        assert!(bytes > 0);
    }
    until("the follower knows what is committed", || {
        let (error, instead, bytes) = fetch(&cluster, near, first);
        (error, instead) == (0, -1) && bytes > 0
    });
    assert_eq!(fetch(&cluster, leader, beyond), (OUT_OF_RANGE, -1, 0));
    assert_eq!(fetch(&cluster, near, beyond), (NOT_AVAILABLE, -1, 0));

    // The stock client goes there; when the node dies it goes on with the leader.
    let (boot, end) = (cluster.boot(), (2 * ROUND).to_string());
    let mut driver = Client::Java.driver();
    let driver = driver.args(["nearest", &boot, "t", &rack, &end]);
    let mut reader = Child::start("reader", driver);
    reader.expect(&format!("from {near}"), PATIENCE);
    cluster.0[near as usize - 1].broker.kill();
    produce(&cluster);
    reader.expect(&format!("read all {end}"), PATIENCE);
    assert!(reader.wait(PATIENCE).success());
    cluster.0[near as usize - 1].broker.start_again();
    cluster.in_sync(&["t"]);
}
