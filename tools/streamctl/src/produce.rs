//! `streamctl produce`: lines of standard input become records.
//!
//! Records gather per partition into batches; one batch per partition is on its way at a time, so
//! order is kept. With acks=all they carry producer id and sequence, and what the broker does not
//! answer is sent again, byte for byte, without ever being written twice.

use std::collections::VecDeque;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use streamd_log::batch::{NewRecord, Writer, build};
use streamd_model::ErrorCode;
use streamd_wire::kafka::produce_request::{PartitionProduceData, TopicProduceData};
use streamd_wire::kafka::{ApiKey, InitProducerIdRequest, ProduceRequest, Records};

use crate::cli::{Acks, Global, Produce};
use crate::client::{Client, RETRY_PAUSE, Topic};
use crate::compress::{Compression, compress};
use crate::failure::{Failure, Result, describe, is_passing};
use crate::input;
use crate::murmur;
use crate::out;

/// A batch is sent when it holds so many bytes before compression; brokers take 1 MiB by default.
const BATCH_BYTES: usize = 512 << 10;
/// All partitions are sent when they hold so many bytes together.
const PENDING_BYTES: usize = 4 << 20;
/// How long a batch that is not full waits for more lines.
const LINGER: Duration = Duration::from_millis(10);
/// What a record takes beside its key and value, about.
const RECORD_OVERHEAD: usize = 16;
/// The last version that names topics; from 13 on they have ids, which older brokers lack.
const PRODUCE_VERSION: i16 = 12;

struct Line {
    number: u64,
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Vec<u8>,
}

impl Line {
    fn bytes(&self) -> usize {
        self.key.as_ref().map_or(0, Vec::len) + self.value.len() + RECORD_OVERHEAD
    }
}

/// Lines that are sent as one batch; its bytes stay the same however often it is sent.
struct Batch {
    lines: Vec<Line>,
    bytes: Vec<u8>,
}

/// One partition.
#[derive(Default)]
struct Slot {
    index: i32,
    leader: i32,
    gathering: Vec<Line>,
    gathered: usize,
    queue: VecDeque<Batch>,
    sequence: i32,
    acked: u64,
    /// First and last offset that was acknowledged.
    offsets: Option<(i64, i64)>,
}

struct Producer<'a> {
    client: Client,
    command: &'a Produce,
    slots: Vec<Slot>,
    /// Producer id and epoch, when it is idempotent.
    identity: Option<(i64, i16)>,
    /// The partition that records without a key go to, until its batch is sent.
    sticky: usize,
    read: u64,
}

/// What an answer says of a batch.
enum Verdict {
    Acked(Option<i64>),
    /// Too large: send it in two halves.
    Split,
    Again(String),
    Refused(String),
}

/// Runs the command.
///
/// # Errors
/// A record was not acknowledged.
pub fn run(global: &Global, command: &Produce) -> Result<()> {
    let mut client = Client::new(global);
    let (topic, created) = client.topic(&command.topic, true)?;
    if created {
        out::say(format_args!(
            "There was no topic `{}`: the broker created it with {}.",
            topic.name,
            out::plural(topic.partitions.len() as u64, "partition")
        ));
    }
    let mut producer = Producer::new(client, command, &topic)?;
    let result = producer.run();
    producer.report(global)?;
    if command.acks == Acks::Nobody && result.is_ok() {
        producer.client.finish();
    }
    result
}

fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as i64)
}

/// Splits a line at the first separator; a line without one has no key.
fn split(line: Vec<u8>, separator: Option<&str>) -> (Option<Vec<u8>>, Vec<u8>) {
    let Some(separator) = separator.map(str::as_bytes).filter(|s| !s.is_empty()) else {
        return (None, line);
    };
    match line.windows(separator.len()).position(|w| w == separator) {
        Some(at) => (
            Some(line[..at].to_vec()),
            line[at + separator.len()..].to_vec(),
        ),
        None => (None, line),
    }
}

/// The bytes of a batch with these lines.
fn pack(
    lines: &[Line],
    identity: Option<(i64, i16)>,
    sequence: i32,
    codec: Compression,
) -> Result<Vec<u8>> {
    let records: Vec<NewRecord<'_>> = lines
        .iter()
        .map(|line| NewRecord {
            timestamp: line.timestamp,
            key: line.key.as_deref(),
            value: Some(&line.value),
        })
        .collect();
    let writer = identity.map(|(id, epoch)| Writer {
        id,
        epoch,
        sequence,
    });
    compress(build(&records, writer.unwrap_or_default()), codec)
        .map_err(|e| Failure::failed(format!("cannot compress a batch: {e}")))
}

impl<'a> Producer<'a> {
    fn new(mut client: Client, command: &'a Produce, topic: &Topic) -> Result<Producer<'a>> {
        let count = topic.partitions.len();
        if let Some(wanted) = command.partition
            && !topic.partitions.iter().any(|p| p.index == wanted)
        {
            return Err(Failure::failed(format!(
                "topic `{}` has no partition {wanted}: it has {count}, numbered from 0",
                topic.name
            )));
        }
        let version = client.any()?.need(ApiKey::Produce, PRODUCE_VERSION)?;
        if command.compression == Compression::Zstd && version < 7 {
            let text = "this broker is too old for zstd: choose another --compression";
            return Err(Failure::failed(text));
        }
        let identity = if command.acks == Acks::All {
            identity(&mut client)?
        } else {
            None
        };
        let slots = topic
            .partitions
            .iter()
            .map(|p| Slot {
                index: p.index,
                leader: p.leader,
                ..Slot::default()
            })
            .collect();
        let sticky = now_ms() as usize % count.max(1);
        Ok(Producer {
            client,
            command,
            slots,
            identity,
            sticky,
            read: 0,
        })
    }

    fn run(&mut self) -> Result<()> {
        let lines = input::read(std::io::stdin());
        loop {
            let pending = self.slots.iter().any(|s| !s.gathering.is_empty());
            let chunk = if pending {
                lines.recv_timeout(LINGER)
            } else {
                lines.recv().map_err(|_| RecvTimeoutError::Disconnected)
            };
            match chunk {
                Ok(Ok(chunk)) => {
                    for line in chunk {
                        self.take(line)?;
                    }
                }
                Ok(Err(why)) => {
                    self.send_all()?;
                    return Err(Failure::Failed(why));
                }
                Err(RecvTimeoutError::Timeout) => self.send_all()?,
                Err(RecvTimeoutError::Disconnected) => return self.send_all(),
            }
        }
    }

    /// Puts a line where it belongs, and sends what is full.
    fn take(&mut self, line: Vec<u8>) -> Result<()> {
        self.read += 1;
        let (key, value) = split(line, self.command.key_separator.as_deref());
        let at = match (self.command.partition, &key) {
            (Some(wanted), _) => self
                .slots
                .iter()
                .position(|s| s.index == wanted)
                .unwrap_or(0),
            (None, Some(key)) => murmur::partition(key, self.slots.len()),
            (None, None) => self.sticky,
        };
        let line = Line {
            number: self.read,
            timestamp: now_ms(),
            key,
            value,
        };
        let slot = &mut self.slots[at];
        // A batch must not grow beyond what brokers take, so the line may have to wait.
        if slot.gathered > 0 && slot.gathered + line.bytes() > BATCH_BYTES {
            self.enqueue(at);
            self.deliver()?;
        }
        let slot = &mut self.slots[at];
        slot.gathered += line.bytes();
        slot.gathering.push(line);
        if self.slots.iter().map(|s| s.gathered).sum::<usize>() > PENDING_BYTES {
            self.send_all()?;
        }
        Ok(())
    }

    fn enqueue(&mut self, at: usize) {
        let slot = &mut self.slots[at];
        if slot.gathering.is_empty() {
            return;
        }
        let lines = std::mem::take(&mut slot.gathering);
        slot.gathered = 0;
        slot.queue.push_back(Batch {
            lines,
            bytes: Vec::new(),
        });
        if at == self.sticky {
            self.sticky = (self.sticky + 1) % self.slots.len();
        }
    }

    fn send_all(&mut self) -> Result<()> {
        for at in 0..self.slots.len() {
            self.enqueue(at);
        }
        self.deliver()
    }

    /// Sends the queues until they are empty.
    fn deliver(&mut self) -> Result<()> {
        let mut deadline = Instant::now() + self.client.timeout;
        loop {
            let mut leaders: Vec<i32> = self
                .slots
                .iter()
                .filter(|s| !s.queue.is_empty())
                .map(|s| s.leader)
                .collect();
            leaders.sort_unstable();
            leaders.dedup();
            if leaders.is_empty() {
                return Ok(());
            }
            let mut trouble = None;
            for leader in leaders {
                match self.send(leader) {
                    Ok(None) => deadline = Instant::now() + self.client.timeout,
                    Ok(Some(why)) => trouble = Some(Failure::Failed(why)),
                    Err(Failure::Lost(why)) if self.identity.is_some() => {
                        trouble = Some(Failure::Lost(why));
                    }
                    Err(Failure::Lost(why)) => return Err(self.unknown(leader, &why)),
                    Err(other) => return Err(other),
                }
            }
            if let Some(trouble) = trouble {
                if Instant::now() > deadline {
                    return Err(trouble);
                }
                thread::sleep(RETRY_PAUSE);
                self.refresh()?;
            }
        }
    }

    fn unknown(&self, leader: i32, why: &str) -> Failure {
        let slots = self.slots.iter().filter(|s| s.leader == leader);
        let lines: usize = slots
            .filter_map(|s| s.queue.front())
            .map(|b| b.lines.len())
            .sum();
        Failure::failed(format!(
            "{why} Whether the last {} were written is unknown; --acks all would send them again \
             without writing one twice",
            out::plural(lines as u64, "record")
        ))
    }

    fn refresh(&mut self) -> Result<()> {
        self.client.disconnect();
        let topic = match self.client.topic(&self.command.topic, false) {
            Ok((topic, _)) => topic,
            // Whether there is time left, the caller knows.
            Err(Failure::Lost(_)) => return Ok(()),
            Err(other) => return Err(other),
        };
        for slot in &mut self.slots {
            if let Some(p) = topic.partitions.iter().find(|p| p.index == slot.index) {
                slot.leader = p.leader;
            }
        }
        Ok(())
    }

    /// Sends the first batch of each queue of a leader. Gives why some have to be sent again.
    fn send(&mut self, leader: i32) -> Result<Option<String>> {
        let (identity, codec) = (self.identity, self.command.compression);
        let mut data = Vec::new();
        for slot in self.slots.iter_mut().filter(|s| s.leader == leader) {
            let Some(batch) = slot.queue.front_mut() else {
                continue;
            };
            if batch.bytes.is_empty() {
                batch.bytes = pack(&batch.lines, identity, slot.sequence, codec)?;
            }
            let records = Some(Records::Bytes(&batch.bytes));
            data.push(PartitionProduceData {
                index: slot.index,
                records,
            });
        }
        let topic = TopicProduceData {
            name: &self.command.topic,
            partition_data: data.into(),
            ..TopicProduceData::default()
        };
        let timeout = self.client.timeout;
        let request = ProduceRequest {
            transactional_id: None,
            acks: self.command.acks.code(),
            timeout_ms: timeout.as_millis() as i32,
            topic_data: vec![topic].into(),
        };
        let conn = self.client.broker(leader)?;
        if self.command.acks == Acks::Nobody {
            conn.tell(&request, PRODUCE_VERSION)?;
            for slot in self.slots.iter_mut().filter(|s| s.leader == leader) {
                slot.settle(None);
            }
            return Ok(None);
        }
        let answer = conn.call_for(&request, PRODUCE_VERSION, timeout)?;
        let mut verdicts = Vec::new();
        for p in answer
            .responses
            .iter()
            .flat_map(|t| t.partition_responses.to_vec())
        {
            let record_errors = p
                .record_errors
                .iter()
                .find_map(|e| e.batch_index_error_message);
            let words = p.error_message.or(record_errors);
            verdicts.push((
                p.index,
                verdict(p.index, (p.error_code, words), p.base_offset),
            ));
        }
        self.judge(leader, verdicts)
    }

    fn judge(&mut self, leader: i32, verdicts: Vec<(i32, Verdict)>) -> Result<Option<String>> {
        let mut again = None;
        let mut refused = None;
        let mut judged = 0;
        for (index, verdict) in verdicts {
            let Some(slot) = self.slots.iter_mut().find(|s| s.index == index) else {
                continue;
            };
            judged += 1;
            match verdict {
                Verdict::Acked(base) => slot.settle(base),
                Verdict::Split => refused = slot.halve().err().or(refused),
                Verdict::Again(why) => again = Some(why),
                Verdict::Refused(why) => refused = Some(Failure::Failed(why)),
            }
        }
        if judged == 0 {
            return Err(Failure::failed(format!(
                "broker {leader} says nothing about what it got"
            )));
        }
        refused.map_or(Ok(again), Err)
    }

    fn report(&self, global: &Global) -> Result<()> {
        let acked: u64 = self.slots.iter().map(|s| s.acked).sum();
        let used: Vec<&Slot> = self.slots.iter().filter(|s| s.acked > 0).collect();
        let verb = match self.command.acks {
            Acks::Nobody => "sent, acknowledged by nobody",
            _ => "acknowledged",
        };
        let records = out::plural(acked, "record");
        let of = if acked < self.read {
            format!(" of {} read", out::count(self.read))
        } else {
            String::new()
        };
        out::say(format_args!("{}: {records}{of} {verb}", self.command.topic));
        for slot in &used {
            let records = out::plural(slot.acked, "record");
            match slot.offsets {
                Some((first, last)) => out::say(format_args!(
                    "  partition {}: {records}, offsets {first} to {last}",
                    slot.index
                )),
                None => out::say(format_args!("  partition {}: {records}", slot.index)),
            }
        }
        if global.json {
            let partitions: Vec<Value> = used
                .iter()
                .map(|s| {
                    json!({
                        "partition": s.index,
                        "records": s.acked,
                        "first_offset": s.offsets.map(|o| o.0),
                        "last_offset": s.offsets.map(|o| o.1),
                    })
                })
                .collect();
            let topic = &self.command.topic;
            out::json(&json!({"topic": topic, "records": acked, "partitions": partitions}))?;
        }
        Ok(())
    }
}

impl Slot {
    /// The first batch was taken, at `base` if that is known.
    fn settle(&mut self, base: Option<i64>) {
        let Some(batch) = self.queue.pop_front() else {
            return;
        };
        let count = batch.lines.len();
        // Sequence numbers go round within the numbers that are not negative.
        self.sequence = self.sequence.wrapping_add(count as i32) & i32::MAX;
        self.acked += count as u64;
        if let Some(base) = base {
            let last = base.saturating_add(count as i64 - 1);
            let (first, before) = self.offsets.unwrap_or((base, last));
            self.offsets = Some((first.min(base), before.max(last)));
        }
    }

    /// Puts two halves in the place of the first batch.
    fn halve(&mut self) -> Result<()> {
        let Some(mut batch) = self.queue.pop_front() else {
            return Ok(());
        };
        if let [line] = batch.lines.as_slice() {
            let (number, bytes) = (line.number, line.bytes() - RECORD_OVERHEAD);
            let what = format!("line {number}, {bytes} bytes");
            let failure = Failure::code(&what, ErrorCode::MessageTooLarge.code(), None);
            self.queue.push_front(batch);
            return Err(failure);
        }
        let second = batch.lines.split_off(batch.lines.len() / 2);
        for lines in [second, batch.lines] {
            self.queue.push_front(Batch {
                lines,
                bytes: Vec::new(),
            });
        }
        Ok(())
    }
}

fn verdict(index: i32, (code, words): (i16, Option<&str>), base: i64) -> Verdict {
    let sentence = || describe(&format!("partition {index} refuses a batch"), code, words);
    match ErrorCode::from_code(code) {
        Some(ErrorCode::None) => Verdict::Acked((base >= 0).then_some(base)),
        // It was written before, and the answer got lost.
        Some(ErrorCode::DuplicateSequenceNumber) => Verdict::Acked(None),
        Some(ErrorCode::MessageTooLarge) => Verdict::Split,
        _ if is_passing(code) => Verdict::Again(sentence()),
        _ => Verdict::Refused(sentence()),
    }
}

/// Asks for a producer id; none when the broker has none to give.
fn identity(client: &mut Client) -> Result<Option<(i64, i16)>> {
    let deadline = Instant::now() + client.timeout;
    loop {
        let conn = client.any()?;
        if conn.version(ApiKey::InitProducerId, i16::MAX).is_none() {
            return Ok(None);
        }
        let request = InitProducerIdRequest {
            transactional_id: None,
            transaction_timeout_ms: i32::MAX,
            producer_id: -1,
            producer_epoch: -1,
            ..InitProducerIdRequest::default()
        };
        let answer = conn.call(&request, i16::MAX)?;
        let code = answer.error_code;
        if code == 0 {
            return Ok(Some((answer.producer_id, answer.producer_epoch)));
        }
        if !is_passing(code) || Instant::now() > deadline {
            return Err(Failure::code("cannot get a producer id", code, None));
        }
        thread::sleep(RETRY_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use streamd_log::batch::{BatchHeader, crc_matches};
    use streamd_log::record_view::BatchView;

    fn line(number: u64, key: Option<&str>, value: &str) -> Line {
        let key = key.map(|k| k.as_bytes().to_vec());
        Line {
            number,
            timestamp: 1000 + number as i64,
            key,
            value: value.into(),
        }
    }

    #[test]
    fn lines_are_split_at_the_first_separator() {
        let owned =
            |k: Option<&str>, v: &str| (k.map(|k| k.as_bytes().to_vec()), v.as_bytes().to_vec());
        assert_eq!(split(b"a:b:c".to_vec(), Some(":")), owned(Some("a"), "b:c"));
        assert_eq!(split(b"a=>b".to_vec(), Some("=>")), owned(Some("a"), "b"));
        assert_eq!(split(b":b".to_vec(), Some(":")), owned(Some(""), "b"));
        assert_eq!(split(b"ab".to_vec(), Some(":")), owned(None, "ab"));
        assert_eq!(split(b"a:b".to_vec(), None), owned(None, "a:b"));
        assert_eq!(split(Vec::new(), Some("=>")), owned(None, ""));
    }

    #[test]
    fn a_batch_carries_the_lines_and_who_sent_them() {
        let lines = [line(1, Some("k"), "v"), line(2, None, "")];
        let bytes = pack(&lines, Some((9, 2)), 5, Compression::Lz4).expect("packs");
        let header = BatchHeader::parse(&bytes).expect("header");
        assert!(crc_matches(&bytes));
        assert_eq!(
            (
                header.producer_id,
                header.producer_epoch,
                header.base_sequence
            ),
            (9, 2, 5)
        );
        assert_eq!((header.base_timestamp, header.max_timestamp), (1001, 1002));
        let view = BatchView::new(&bytes, 1 << 20).expect("view");
        let got: Vec<_> = view.records().map(|r| r.expect("sound")).collect();
        assert_eq!(
            (got[0].key, got[0].value),
            (Some(&b"k"[..]), Some(&b"v"[..]))
        );
        assert_eq!((got[1].key, got[1].value), (None, Some(&b""[..])));
        let plain = pack(&lines, None, 5, Compression::None).expect("packs");
        let header = BatchHeader::parse(&plain).expect("header");
        assert_eq!((header.producer_id, header.base_sequence), (-1, -1));
    }

    #[test]
    fn a_batch_that_is_too_large_is_halved_in_order() {
        let mut slot = Slot::default();
        let lines = (1..=3).map(|n| line(n, None, "x")).collect();
        slot.queue.push_back(Batch {
            lines,
            bytes: vec![1],
        });
        slot.halve().expect("three lines have halves");
        slot.halve().expect_err("a single line has none");
        let numbers: Vec<Vec<u64>> = slot
            .queue
            .iter()
            .map(|b| b.lines.iter().map(|l| l.number).collect())
            .collect();
        assert_eq!(numbers, [vec![1], vec![2, 3]]);
        assert!(slot.queue.iter().all(|b| b.bytes.is_empty()));
    }

    #[test]
    fn acknowledged_batches_move_sequence_and_offsets() {
        let mut slot = Slot {
            sequence: i32::MAX,
            ..Slot::default()
        };
        for base in [Some(10), None, Some(20)] {
            let lines = vec![line(1, None, "x"), line(2, None, "y")];
            slot.queue.push_back(Batch {
                lines,
                bytes: Vec::new(),
            });
            slot.settle(base);
        }
        assert_eq!(
            (slot.acked, slot.offsets, slot.sequence),
            (6, Some((10, 21)), 5)
        );
        assert!(matches!(verdict(0, (46, None), -1), Verdict::Acked(None)));
        assert!(matches!(verdict(0, (6, None), -1), Verdict::Again(_)));
        assert!(matches!(verdict(0, (87, None), -1), Verdict::Refused(_)));
    }
}
