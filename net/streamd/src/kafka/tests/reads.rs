//! Fetches whose records the disk cannot give.

use std::rc::Rc;

use bytes::Bytes;
use streamd_io::sim::{DiskOp, Fault, Sim, SimOptions};
use streamd_io::{Class, Env, Part};
use streamd_log::batch::{NewRecord, Writer as Producer, build};
use streamd_log::validate::Facts;
use streamd_log::{BatchHeader, NewBatch};
use streamd_model::{ErrorCode, PartitionId};
use streamd_shard::{AppendItem, ReadDone, ReadItem, ReadRequest, Reply, Request};

use super::{create, start};
use crate::broker::Broker;

const NOBODY: Producer = Producer {
    id: -1,
    epoch: -1,
    sequence: -1,
};
const VALUE: usize = 50_000;
/// More than the tails keep in memory.
const BATCHES: usize = 60;

/// Appends one record of now.
pub(super) async fn append_one(
    broker: &Rc<Broker>,
    partition: PartitionId,
    (key, value): (Option<&[u8]>, &[u8]),
) {
    let owner = usize::from(broker.shard.owner(partition).0);
    let timestamp = broker.shard.env.wall_ms();
    let record = NewRecord {
        timestamp,
        key,
        value: Some(value),
    };
    let bytes = Bytes::from(build(&[record], NOBODY));
    let facts = Facts {
        header: BatchHeader::parse(&bytes).unwrap(),
        max_timestamp: timestamp,
        log_append_time: false,
        restamp: false,
    };
    let item = AppendItem {
        partition,
        batch: NewBatch { bytes, facts },
        guard: None,
        acks: streamd_core::repl::Acks::All,
    };
    let reply = broker.begin(owner, Request::Append(vec![item])).await;
    match reply.await {
        Some(Reply::Append(done)) => assert!(done[0].is_ok()),
        _ => panic!("no answer to an append"),
    }
}

async fn append(broker: &Rc<Broker>, partition: PartitionId) {
    for _ in 0..BATCHES {
        append_one(broker, partition, (None, &[7; VALUE])).await;
    }
}

pub(super) async fn read(broker: &Rc<Broker>, partition: PartitionId) -> ReadDone {
    let item = ReadItem {
        partition,
        offset: 0,
        bytes_max: 1 << 20,
        leader_epoch: -1,
        last_fetched_epoch: -1,
        committed: false,
        follower_too: false,
    };
    let request = ReadRequest {
        items: vec![item],
        bytes_max: 1 << 20,
    };
    let owner = usize::from(broker.shard.owner(partition).0);
    match broker.begin(owner, Request::Read(request)).await.await {
        Some(Reply::Read(mut done)) => done.remove(0),
        _ => panic!("no answer to a read"),
    }
}

/// Sends as a connection does; the error that ends the connection.
async fn send(env: &Env, parts: Vec<Part>) -> Result<(), std::io::Error> {
    let listener = env.listen("10.0.0.1:0".parse().unwrap()).await.unwrap();
    let client = env.connect(listener.local_addr().unwrap()).await.unwrap();
    let sink = env.spawn(Class::Latency, async move {
        let (mut r, _w) = client.split();
        let mut buf = vec![0; 1 << 16];
        while matches!(r.read(&mut buf).await, Ok(n) if n > 0) {}
    });
    let stream = env.adopt(listener.accept().await.unwrap()).unwrap();
    let (_r, mut w) = stream.split();
    let sent = w.send(parts).await;
    drop((w, _r));
    sink.await;
    sent
}

/// The reader whose answer was half sent sees its connection end and asks again. Then it gets an
/// answer, as all others: without one the client would connect and ask again for ever.
#[test]
fn a_file_that_cannot_be_sent_takes_its_partition_offline() {
    let mut sim = Sim::new(1, SimOptions::default());
    let disk = sim.disk();
    sim.run(|env| async move {
        let broker = start(&env, Vec::new().into_iter().collect()).await;
        create(&broker, "t", 2).await;
        let topic = broker.shard.image().topic("t").unwrap().id;
        let [broken, sound] = [0, 1].map(|index| PartitionId { topic, index });
        append(&broker, broken).await;
        append(&broker, sound).await;
        let plan = read(&broker, broken).await.result.expect("it can be read");
        assert!(
            plan.parts.iter().any(|p| matches!(p, Part::File { .. })),
            "of what is not in memory any more"
        );
        disk.set_faults(vec![Fault::eio("", DiskOp::Read)]);
        let error = send(&env, plan.parts).await.expect_err("the disk fails");
        assert_eq!(error.raw_os_error(), Some(5), "{error}");
        disk.set_faults(Vec::new());
        let Err(refusal) = read(&broker, broken).await.result else {
            panic!("it is served on")
        };
        assert_eq!(refusal.code, ErrorCode::KafkaStorageError);
        assert!(
            refusal.text.contains("t-0/0000"),
            "which file: {}",
            refusal.text
        );
        let plan = read(&broker, sound).await.result.expect("others go on");
        send(&env, plan.parts).await.expect("others go on");
    });
}
