//! Topics that are written to all the time, and little: what they have in the journal must not keep
//! them from being compacted, nor from being cut.

use std::rc::Rc;
use std::time::Duration;

use streamd_model::PartitionId;

use super::reads::{append_one, read};
use super::{create, with_broker};
use crate::broker::Broker;

/// From one record to the next: the journal never has a second of rest.
const PACE: Duration = Duration::from_millis(200);

async fn write(broker: &Rc<Broker>, seconds: u32) -> PartitionId {
    create(broker, "t", 1).await;
    let topic = broker.shard.image().topic("t").unwrap().id;
    let partition = PartitionId { topic, index: 0 };
    for _ in 0..5 * seconds {
        append_one(broker, partition, (Some(b"key"), b"value")).await;
        broker.shard.env.sleep(PACE).await;
    }
    partition
}

#[test]
fn a_slow_topic_is_compacted() {
    let configs = [
        ("log.cleanup.policy", "compact"),
        ("log.roll.ms", "1000"),
        ("log.cleaner.backoff.ms", "100"),
    ];
    with_broker(&configs, |broker| async move {
        let partition = write(&broker, 20).await;
        let done = read(&broker, partition).await;
        assert_eq!(done.marks.high, 100, "all is there");
        let bytes = done.result.unwrap().bytes;
        // A record is 77 bytes; of each second, and of what was compacted together, one stays.
        assert!((1..25 * 77).contains(&bytes), "{bytes} bytes are left");
    });
}

#[test]
fn a_slow_topic_is_cut() {
    let configs = [("log.retention.ms", "10000"), ("log.roll.ms", "1000")];
    with_broker(&configs, |broker| async move {
        let partition = write(&broker, 30).await;
        let marks = read(&broker, partition).await.marks;
        let kept = marks.high - marks.start;
        assert_eq!(marks.high, 5 * 30);
        // Ten seconds, a segment, and what came since retention looked.
        assert!((50..90).contains(&kept), "{kept} records are left");
    });
}
