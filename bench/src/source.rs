//! What a producer sends, made before the run and replayed: requests in a cycle, and when each is
//! due.
//!
//! Without keys the partitions take turns with one batch. With keys the cycle is what a client with
//! a hashing partitioner would make: in closed loop a batch goes when it is full; in open loop
//! everything that came due in a window goes in one request.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use streamd_wire::kafka::frame::encode_request;
use streamd_wire::kafka::produce_request::{PartitionProduceData, TopicProduceData};
use streamd_wire::kafka::{Message, ProduceRequest, ProduceResponse, Records, Writer};

use crate::admin::{CLIENT_ID, error_name};
use crate::batch::{self, Record};
use crate::conn::{Piece, Template};
use crate::drive::Next;
use crate::failure::{Context, Failure, Result};
use crate::keys::{Zipf, partition};
use crate::leaders::Leaders;
use crate::meter::Meter;
use crate::payload::{Payload, Random};
use crate::workload::{Keys, Workload};

/// The newest Produce version with topic names (13 has ids).
pub const VERSION: i16 = 12;
/// The most requests in a cycle with keys, and the most bytes of their records.
const CYCLE_REQUESTS: usize = 256;
const CYCLE_BYTES: usize = 32 << 20;
/// So many different values are made; making them is slow.
const VALUES: usize = 1000;

/// Whose requests: where they go and in which version.
#[derive(Clone, Copy, Debug)]
pub struct Wire<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The version of Produce requests.
    pub version: i16,
}

/// Requests in a cycle and their schedule.
#[derive(Debug)]
pub struct Source {
    templates: Vec<Rc<Template>>,
    turn: usize,
    /// Nanoseconds between records; `None` in closed loop.
    gap: Option<f64>,
    /// When the first record of the next request is due.
    due: f64,
    /// Whether records wait for the last one of their request (linger), or all come at once.
    lingers: bool,
}

impl Source {
    /// A source for a whole load.
    ///
    /// # Errors
    /// A request cannot be encoded.
    pub fn new(wire: Wire<'_>, load: &Workload) -> Result<Source> {
        let requests = cycle(wire, load, |_| 0)?;
        Ok(Source::of(requests.concat(), load, load.rate))
    }

    /// One source for each of so many connections, which are dealt to the leaders in turn: each
    /// has partitions of its own and its part of the rate. One has nothing to send if its node
    /// leads less than it has connections.
    ///
    /// # Errors
    /// As [`Source::new`].
    pub fn dealt(
        wire: Wire<'_>,
        load: &Workload,
        leaders: &Leaders,
        connections: usize,
    ) -> Result<Vec<Source>> {
        let nodes = leaders.nodes();
        let all = cycle(wire, load, |partition| leaders.node(partition))?;
        let count = |requests: &[Rc<Template>]| requests.iter().map(|r| r.records).sum::<u64>();
        let whole: u64 = all.iter().map(|node| count(node)).sum();
        let sources = (0..connections).map(|conn| {
            let node = all.get(conn % nodes).map_or(&[][..], |node| node);
            let own = node.iter().skip(conn / nodes);
            let own: Vec<_> = own.step_by((connections / nodes).max(1)).cloned().collect();
            let part = count(&own) as f64 / whole.max(1) as f64;
            let rate = load.rate.map(|rate| rate * part);
            let mut source = Source::of(own, load, rate);
            // Not all at the same moment.
            let first = source.templates.first().map_or(0, |first| first.records);
            let first = first as f64 * source.gap.unwrap_or(0.0);
            source.due = first * conn as f64 / connections as f64;
            source
        });
        Ok(sources.collect())
    }

    fn of(templates: Vec<Rc<Template>>, load: &Workload, rate: Option<f64>) -> Source {
        Source {
            templates,
            turn: 0,
            gap: rate.map(|rate| 1e9 / rate),
            due: 0.0,
            lingers: load.linger_ms > 0.0,
        }
    }

    /// The next request, or when it is due. A request's due time is that of its first record; with
    /// linger it is sent when its last record is due.
    pub fn next(&mut self, now: u64, meter: &Meter) -> Next {
        let Some(template) = self.templates.get(self.turn) else {
            return Next::Nothing;
        };
        let due = match self.gap {
            None if meter.over() => return Next::Nothing,
            None => now,
            Some(gap) => {
                let due = self.due as u64;
                if meter.ended_at().is_some_and(|end| due >= end) {
                    return Next::Nothing;
                }
                let waits = if self.lingers {
                    template.records - 1
                } else {
                    0
                };
                let goes = (self.due + waits as f64 * gap) as u64;
                if goes > now {
                    return Next::At(goes);
                }
                self.due += template.records as f64 * gap;
                due
            }
        };
        let template = template.clone();
        self.turn = (self.turn + 1) % self.templates.len();
        Next::Send(template, due)
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}

/// All requests of a cycle, by the nodes that lead their partitions.
fn cycle(
    wire: Wire<'_>,
    load: &Workload,
    node: impl Fn(i32) -> usize,
) -> Result<Vec<Vec<Rc<Template>>>> {
    let requests = match load.keys {
        Some(keys) => keyed(load, keys),
        None => in_turn(load),
    };
    let mut nodes: Vec<Vec<Rc<Template>>> = Vec::new();
    for request in requests {
        let mut parts: BTreeMap<usize, Batches> = BTreeMap::new();
        for batch in request {
            parts.entry(node(batch.0)).or_default().push(batch);
        }
        for (node, part) in parts {
            nodes.resize_with(nodes.len().max(node + 1), Vec::new);
            nodes[node].push(Rc::new(template(wire, load.acks, part)?));
        }
    }
    Ok(nodes)
}

/// A request to be: partitions with their batches and the number of records in them.
type Batches = Vec<(i32, Rc<[u8]>, usize)>;

/// Every partition has its turn with the same batch.
fn in_turn(load: &Workload) -> Vec<Batches> {
    let mut payload = Payload::new(load.size, 7);
    let count = load.batch_records;
    let records: Vec<_> = (0..count).map(|_| Record::of(payload.record())).collect();
    let batch: Rc<[u8]> = batch::encode(&records, load.codec, now_ms()).into();
    let (spread, partitions) = (load.spread.clamp(1, load.partitions), load.partitions);
    (0..(partitions + spread - 1) / spread)
        .map(|first| {
            let places = (0..spread).map(|i| (first * spread + i) % partitions);
            places.map(|place| (place, batch.clone(), count)).collect()
        })
        .collect()
}

/// Records with keys by Zipf's law, gathered by the partitions of their keys.
fn keyed(load: &Workload, keys: Keys) -> Vec<Batches> {
    let mut payload = Payload::new(load.size, 7);
    let values: Vec<Rc<[u8]>> = (0..VALUES).map(|_| payload.record().into()).collect();
    let (zipf, mut random) = (Zipf::new(keys.count, keys.skew), Random::new(13));
    let mut draw = || {
        let key = format!("key-{:08}", zipf.rank(&mut random)).into_bytes();
        let place = partition(&key, load.partitions);
        let value = values[random.below(VALUES as u64) as usize].clone();
        let key = Some(key);
        (place as usize, Record { key, value })
    };
    let time = now_ms();
    let pack = |place: usize, records: &mut Vec<Record>| {
        let batch: Rc<[u8]> = batch::encode(records, load.codec, time).into();
        let packed = (place as i32, batch, records.len());
        records.clear();
        packed
    };
    let mut waiting: Vec<Vec<Record>> = vec![Vec::new(); load.partitions as usize];
    let mut requests: Vec<Batches> = Vec::new();
    let mut bytes = 0;
    while requests.is_empty() || (requests.len() < CYCLE_REQUESTS && bytes < CYCLE_BYTES) {
        if load.rate.is_some() {
            for _ in 0..load.batch_records {
                let (place, record) = draw();
                waiting[place].push(record);
            }
            let ready = waiting
                .iter_mut()
                .enumerate()
                .filter(|(_, own)| !own.is_empty());
            requests.push(ready.map(|(place, own)| pack(place, own)).collect());
            bytes += load.batch_records * load.size;
        } else {
            let (place, record) = draw();
            waiting[place].push(record);
            if waiting[place].len() == load.batch_records {
                requests.push(vec![pack(place, &mut waiting[place])]);
                bytes += load.batch_records * load.size;
            }
        }
    }
    requests
}

/// Encodes a Produce request around its batches.
///
/// # Errors
/// It cannot be encoded.
fn template(wire: Wire<'_>, acks: i16, batches: Batches) -> Result<Template> {
    let data: Vec<_> = batches
        .iter()
        .map(|(index, batch, _)| PartitionProduceData {
            index: *index,
            records: Some(Records::Hole(batch.len())),
        })
        .collect();
    let request = ProduceRequest {
        acks,
        timeout_ms: 30_000,
        topic_data: vec![TopicProduceData {
            name: wire.topic,
            partition_data: data.into(),
            ..TopicProduceData::default()
        }]
        .into(),
        ..ProduceRequest::default()
    };
    let mut w = Writer::new();
    encode_request(&request, wire.version, 0, Some(CLIENT_ID), &mut w)
        .context(|| "cannot encode a Produce request".into())?;
    let (head, holes) = w.into_parts();
    assert!(holes.len() == batches.len(), "a hole for every batch");
    Ok(Template {
        head,
        partitions: batches.iter().map(|(index, ..)| *index).collect(),
        records: batches.iter().map(|(.., count)| *count as u64).sum(),
        wire_bytes: batches.iter().map(|(_, batch, _)| batch.len() as u64).sum(),
        pieces: holes
            .iter()
            .zip(batches)
            .map(|(hole, (_, bytes, _))| Piece { at: hole.at, bytes })
            .collect(),
    })
}

/// Reads the answer to a Produce request: calls `each` for every partition that was taken.
///
/// # Errors
/// It cannot be read, is empty, or refuses a batch.
pub fn accepted(body: &[u8], version: i16, mut each: impl FnMut(i32)) -> Result<()> {
    let what = || "the answer to a Produce request cannot be read".to_owned();
    let answer = ProduceResponse::decode_body(body, version).context(what)?;
    let mut partitions = 0;
    for topic in answer.responses.iter() {
        for partition in topic.partition_responses.iter() {
            partitions += 1;
            if partition.error_code != 0 {
                return Err(Failure::new(format!(
                    "the broker refused a batch for partition {}: {}",
                    partition.index,
                    error_name(partition.error_code)
                )));
            }
            each(partition.index);
        }
    }
    if partitions == 0 {
        return Err(Failure::new("the answer to a Produce request is empty"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::Stop;
    use crate::spec::{KeySpec, Spec};
    use crate::workload::Kind;
    use std::time::Duration;

    const WIRE: Wire<'_> = Wire {
        topic: "t",
        version: VERSION,
    };

    fn load(spec: Spec) -> Workload {
        spec.workload(Kind::Produce).unwrap()
    }

    fn meter() -> Meter {
        Meter::new(&[], Duration::ZERO, Stop::After(1 << 60))
    }

    #[test]
    fn a_cycle_with_spread_reaches_every_partition() {
        let load = load(Spec {
            partitions: Some(5),
            spread: Some(2),
            ..Spec::default()
        });
        let cycle = cycle(WIRE, &load, |_| 0).unwrap().concat();
        let reached: Vec<_> = cycle.iter().map(|t| t.partitions.clone()).collect();
        assert_eq!(reached, [[0, 1], [2, 3], [4, 0]]);
        assert_eq!(cycle[0].pieces.len(), 2);
        let bytes = cycle[0].pieces[0].bytes.len() as u64;
        assert_eq!(cycle[0].wire_bytes, 2 * bytes);
        assert_eq!(cycle[0].records, 2 * load.batch_records as u64);
    }

    #[test]
    fn full_batches_of_keys_go_where_their_hash_says_and_hot_partitions_more_often() {
        let load = load(Spec {
            keyed: KeySpec {
                keys: Some(1000),
                skew: Some(1.2),
            },
            partitions: Some(8),

            batch_records: Some(20),
            size: Some(50),
            ..Spec::default()
        });
        let cycle = cycle(WIRE, &load, |_| 0).unwrap().concat();
        assert_eq!(cycle.len(), CYCLE_REQUESTS);
        assert!(
            cycle
                .iter()
                .all(|t| t.records == 20 && t.partitions.len() == 1)
        );
        let hot = partition(b"key-00000000", 8);
        let share = |p| cycle.iter().filter(|t| t.partitions == [p]).count();
        // The hottest key alone has about a quarter of all records.
        assert!(share(hot) > CYCLE_REQUESTS / 4, "{}", share(hot));
        assert!((0..8).filter(|p| share(*p) > 0).count() >= 6);
    }

    #[test]
    fn a_window_of_keys_is_one_request_for_all_its_partitions() {
        let load = load(Spec {
            keyed: KeySpec {
                keys: Some(1000),
                ..KeySpec::default()
            },
            partitions: Some(4),

            rate: Some(10_000.0),
            linger: Some(5.0),
            ..Spec::default()
        });
        assert_eq!(load.batch_records, 51);
        let cycle = cycle(WIRE, &load, |_| 0).unwrap().concat();
        assert!(cycle.iter().all(|t| t.records == 51));
        assert!(cycle.iter().any(|t| t.partitions.len() == 4));
    }

    #[test]
    fn with_linger_a_request_goes_with_its_last_record_and_is_due_with_its_first() {
        let load = load(Spec {
            rate: Some(1000.0),
            linger: Some(5.0),
            ..Spec::default()
        });
        let (mut source, meter) = (Source::new(WIRE, &load).unwrap(), meter());
        assert_eq!(load.batch_records, 6);
        assert!(matches!(
            source.next(4_999_999, &meter),
            Next::At(5_000_000)
        ));
        assert!(matches!(source.next(5_000_000, &meter), Next::Send(_, 0)));
        assert!(matches!(
            source.next(5_000_000, &meter),
            Next::At(11_000_000)
        ));
    }

    #[test]
    fn connections_share_the_rate_and_have_partitions_of_their_own() {
        let load = load(Spec {
            rate: Some(1000.0),
            partitions: Some(4),
            batch_records: Some(1),
            ..Spec::default()
        });
        let leaders = Leaders::alone(([127, 0, 0, 1], 1).into(), 4);
        let mut sources = Source::dealt(WIRE, &load, &leaders, 2).unwrap();
        let meter = meter();
        let mut sent = Vec::new();
        for source in &mut sources {
            while let Next::Send(template, due) = source.next(5_000_000, &meter) {
                sent.push((due, template.partitions[0]));
            }
        }
        let a = [(0, 0), (2_000_000, 2), (4_000_000, 0)];
        let b = [(1_000_000, 1), (3_000_000, 3), (5_000_000, 1)];
        assert_eq!(sent, [a, b].concat());
    }

    #[test]
    fn each_leader_gets_its_partitions_and_its_part_of_the_rate() {
        let load = load(Spec {
            rate: Some(1000.0),
            partitions: Some(3),
            spread: Some(3),
            batch_records: Some(1),
            ..Spec::default()
        });
        let at = |port| ([127, 0, 0, 1], port).into();
        let leaders = Leaders::of(&[at(1), at(2), at(1)]);
        let sources = Source::dealt(WIRE, &load, &leaders, 2).unwrap();
        let sent = |source: &Source| source.templates[0].partitions.clone();
        assert_eq!(
            (sent(&sources[0]), sent(&sources[1])),
            (vec![0, 2], vec![1])
        );
        // Two records at a time every three milliseconds, and one.
        let gaps = sources.iter().map(|source| source.gap.unwrap() as u64);
        assert_eq!(gaps.collect::<Vec<_>>(), [1_500_000, 3_000_000]);
    }
}
