//! `streamctl consume`: records of a topic on standard output, until told to stop.
//!
//! One fetch after the other to each leader. Batches are checked (CRC) and inflated one at a time,
//! up to the limit that the broker itself has, so a hostile one costs bounded memory.

use std::io::{self, IsTerminal, Write};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use streamd_log::batch::{BatchHeader, crc_matches};
use streamd_log::compress::INFLATED_MAX;
use streamd_log::record_view::{BatchView, RecordView};
use streamd_model::ErrorCode;
use streamd_wire::kafka::fetch_request::{FetchPartition, FetchTopic};
use streamd_wire::kafka::fetch_response::PartitionData;
use streamd_wire::kafka::{FetchRequest, Records};

use crate::cli::{Consume, Global, Start};
use crate::client::{Client, Partition, RETRY_PAUSE, Topic};
use crate::failure::{Failure, Result, is_passing};
use crate::format::{Format, record_json};
use crate::offsets;
use crate::out::{self, Out};

/// How long a broker may wait for records before it answers that there are none.
const WAIT: Duration = Duration::from_millis(500);
/// What one answer may hold, bytes: of one partition, and of all.
const PARTITION_BYTES: i32 = 1 << 20;
const FETCH_BYTES: i32 = 16 << 20;
/// The last version that names topics; from 13 on they have ids, which older brokers lack.
const FETCH_VERSION: i16 = 12;

/// How far a partition was read.
struct Position {
    index: i32,
    leader: i32,
    next: i64,
    /// Where to stop, with `--until-end`.
    end: Option<i64>,
}

impl Position {
    fn is_done(&self) -> bool {
        self.end.is_some_and(|end| self.next >= end)
    }
}

struct Consumer<'a> {
    global: &'a Global,
    topic: &'a str,
    format: Format,
    out: Out,
    positions: Vec<Position>,
    /// Records that may still be printed.
    left: u64,
    printed: u64,
    /// Whether the start was given as a number: then it is an error when it is not there.
    exact: bool,
}

/// What an answer of a leader leads to.
#[derive(Debug, PartialEq, Eq)]
enum After {
    GoOn,
    /// Look at the metadata again.
    Refresh,
}

/// Runs the command.
///
/// # Errors
/// No such topic or offset, a broker that does not come back, a damaged batch.
pub fn run(global: &Global, command: &Consume) -> Result<()> {
    let format = Format::parse(&command.format).map_err(Failure::Usage)?;
    let mut client = Client::new(global);
    let (topic, _) = client.topic(&command.topic, false)?;
    let positions = start(&mut client, &topic, command)?;
    let mut consumer = Consumer {
        global,
        topic: &command.topic,
        format,
        out: Out::default(),
        positions,
        left: command.count.unwrap_or(u64::MAX),
        printed: 0,
        exact: matches!(command.offset, Start::At(_)),
    };
    let follows = command.count.is_none() && !command.until_end;
    if follows && io::stderr().is_terminal() {
        let partitions = out::plural(consumer.positions.len() as u64, "partition");
        out::say(format_args!(
            "Following `{}` ({partitions}); Ctrl-C ends it.",
            command.topic
        ));
    }
    consumer.run(&mut client)?;
    consumer.out.flush().map_err(Failure::stdout)?;
    if consumer.printed == 0 && io::stderr().is_terminal() {
        out::say(format_args!("No records of `{}` there.", command.topic));
    }
    Ok(())
}

/// Where to begin, and with `--until-end` where to stop.
fn start(client: &mut Client, topic: &Topic, command: &Consume) -> Result<Vec<Position>> {
    let mut partitions: Vec<Partition> = topic.partitions.clone();
    if let Some(wanted) = command.partition {
        partitions.retain(|p| p.index == wanted);
        if partitions.is_empty() {
            let count = topic.partitions.len();
            return Err(Failure::failed(format!(
                "topic `{}` has no partition {wanted}: it has {count}, numbered from 0",
                topic.name
            )));
        }
    }
    let earliest = offsets::list(client, &topic.name, &partitions, offsets::EARLIEST)?;
    let latest = offsets::list(client, &topic.name, &partitions, offsets::LATEST)?;
    let mut positions = Vec::new();
    for p in &partitions {
        let (Some(&earliest), Some(&latest)) = (earliest.get(&p.index), latest.get(&p.index))
        else {
            let what = format!("the broker does not say where partition {} begins", p.index);
            return Err(Failure::failed(what));
        };
        let next = match command.offset {
            Start::Earliest => earliest,
            Start::Latest => latest,
            Start::At(offset) => offset,
            Start::Last(n) => latest.saturating_sub(n).max(earliest),
        };
        if next < earliest || next > latest {
            return Err(Failure::failed(format!(
                "partition {} of `{}` has the offsets {earliest} to {latest}: {next} is not there",
                p.index, topic.name
            )));
        }
        let end = command.until_end.then_some(latest);
        positions.push(Position {
            index: p.index,
            leader: p.leader,
            next,
            end,
        });
    }
    Ok(positions)
}

impl Consumer<'_> {
    fn run(&mut self, client: &mut Client) -> Result<()> {
        let mut trouble: Option<Instant> = None;
        while self.left > 0 && self.positions.iter().any(|p| !p.is_done()) {
            let after = self.round(client);
            // What was read is shown before anything is waited for.
            self.out.flush().map_err(Failure::stdout)?;
            match after {
                Ok(After::GoOn) => trouble = None,
                Ok(After::Refresh) | Err(Failure::Lost(_)) => {
                    let since = *trouble.get_or_insert_with(Instant::now);
                    if since.elapsed() > self.global.timeout {
                        return after.map(drop).and_then(|()| {
                            Err(Failure::failed(format!(
                                "topic `{}` has no leader to read from. \
                                 `streamctl topic describe {}` shows more",
                                self.topic, self.topic
                            )))
                        });
                    }
                    thread::sleep(RETRY_PAUSE);
                    self.refresh(client, since)?;
                }
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// Connects anew and learns the leaders, as long as there is time.
    fn refresh(&mut self, client: &mut Client, since: Instant) -> Result<()> {
        client.disconnect();
        let topic = match client.topic(self.topic, false) {
            Ok((topic, _)) => topic,
            Err(Failure::Lost(_)) if since.elapsed() <= self.global.timeout => return Ok(()),
            Err(other) => return Err(other),
        };
        for position in &mut self.positions {
            if let Some(p) = topic.partitions.iter().find(|p| p.index == position.index) {
                position.leader = p.leader;
            }
        }
        Ok(())
    }

    /// Asks every leader once.
    fn round(&mut self, client: &mut Client) -> Result<After> {
        let mut leaders: Vec<i32> = self
            .positions
            .iter()
            .filter(|p| !p.is_done())
            .map(|p| p.leader)
            .collect();
        leaders.sort_unstable();
        leaders.dedup();
        let wait = WAIT / leaders.len().max(1) as u32;
        let mut after = After::GoOn;
        for leader in leaders {
            if self.left > 0 && self.fetch(client, leader, wait)? == After::Refresh {
                after = After::Refresh;
            }
        }
        Ok(after)
    }

    fn fetch(&mut self, client: &mut Client, leader: i32, wait: Duration) -> Result<After> {
        let wanted = self
            .positions
            .iter()
            .filter(|p| p.leader == leader && !p.is_done());
        let partitions = wanted.map(|p| FetchPartition {
            partition: p.index,
            fetch_offset: p.next,
            partition_max_bytes: PARTITION_BYTES,
            ..FetchPartition::default()
        });
        let asked = FetchTopic {
            topic: self.topic,
            partitions: partitions.collect(),
            ..Default::default()
        };
        let request = FetchRequest {
            max_wait_ms: wait.as_millis() as i32,
            min_bytes: 1,
            max_bytes: FETCH_BYTES,
            topics: vec![asked].into(),
            ..FetchRequest::default()
        };
        let conn = client.broker(leader)?;
        let answer = conn.call_for(&request, FETCH_VERSION, wait)?;
        if answer.error_code != 0 {
            return Err(Failure::code("cannot fetch", answer.error_code, None));
        }
        let mut after = After::GoOn;
        for partition in answer.responses.iter().flat_map(|t| t.partitions.to_vec()) {
            if self.partition(&partition)? == After::Refresh {
                after = After::Refresh;
            }
        }
        Ok(after)
    }

    fn partition(&mut self, data: &PartitionData<'_>) -> Result<After> {
        let Some(at) = self
            .positions
            .iter()
            .position(|p| p.index == data.partition_index)
        else {
            return Ok(After::GoOn);
        };
        if data.error_code != 0 {
            return self.refused(at, data);
        }
        let mut rest = data
            .records
            .as_ref()
            .map(Records::bytes)
            .unwrap_or_default();
        let begun = self.positions[at].next;
        let had = rest.len();
        while self.left > 0 && !self.positions[at].is_done() {
            let Some((header, batch)) = self.split(at, &mut rest)? else {
                break;
            };
            self.batch(at, &header, batch)?;
        }
        if had > 0 && self.left > 0 && self.positions[at].next == begun {
            return Err(self.damaged(at, "what came is no whole batch, though it was asked for"));
        }
        Ok(After::GoOn)
    }

    fn refused(&mut self, at: usize, data: &PartitionData<'_>) -> Result<After> {
        let position = &mut self.positions[at];
        let what = format!("partition {} of `{}`", position.index, self.topic);
        let gone = data.error_code == ErrorCode::OffsetOutOfRange.code();
        if gone && !self.exact && data.log_start_offset > position.next {
            out::say(format_args!(
                "{what}: offsets {} to {} were deleted before they were read; going on behind them",
                position.next,
                data.log_start_offset - 1
            ));
            position.next = data.log_start_offset;
            return Ok(After::GoOn);
        }
        if is_passing(data.error_code) {
            return Ok(After::Refresh);
        }
        let what = format!("{what}, offset {}", position.next);
        Err(Failure::code(&what, data.error_code, None))
    }

    /// Takes the next whole batch off `rest`.
    fn split<'b>(&self, at: usize, rest: &mut &'b [u8]) -> Result<Option<(BatchHeader, &'b [u8])>> {
        // The last batch of an answer may be cut.
        if rest.len() < streamd_log::batch::HEADER {
            return Ok(None);
        }
        let header = BatchHeader::parse(rest).map_err(|e| self.damaged(at, &e.text))?;
        let Some((batch, behind)) = rest.split_at_checked(header.size) else {
            return Ok(None);
        };
        *rest = behind;
        Ok(Some((header, batch)))
    }

    fn batch(&mut self, at: usize, header: &BatchHeader, batch: &[u8]) -> Result<()> {
        let next = header
            .base_offset
            .checked_add(i64::from(header.last_offset_delta) + 1);
        let Some(next) = next else {
            return Err(self.damaged(at, "a batch beyond the greatest offset"));
        };
        if !crc_matches(batch) {
            let what = format!(
                "the CRC of the batch at offset {} is wrong",
                header.base_offset
            );
            return Err(self.damaged(at, &what));
        }
        // A control batch holds the marks of transactions, no records.
        if !header.is_control() {
            let view =
                BatchView::new(batch, INFLATED_MAX).map_err(|e| self.damaged(at, &e.text))?;
            for record in view.records() {
                let record = record.map_err(|e| self.damaged(at, &e.text))?;
                let position = &self.positions[at];
                if record.offset < position.next || self.left == 0 {
                    continue;
                }
                if position.end.is_some_and(|end| record.offset >= end) {
                    break;
                }
                let index = position.index;
                self.print(index, &record).map_err(Failure::stdout)?;
                self.left -= 1;
                self.printed += 1;
            }
        }
        let position = &mut self.positions[at];
        position.next = position.next.max(next);
        Ok(())
    }

    fn print(&mut self, partition: i32, record: &RecordView<'_>) -> io::Result<()> {
        if !self.global.json {
            return self.format.print(&mut self.out, partition, record);
        }
        let mut object = record_json(record);
        object.insert("topic".into(), self.topic.into());
        object.insert("partition".into(), partition.into());
        writeln!(self.out, "{}", Value::Object(object))
    }

    fn damaged(&self, at: usize, what: &str) -> Failure {
        let position = &self.positions[at];
        Failure::failed(format!(
            "partition {} of `{}`, from offset {}: {what}. `streamctl log verify DIR` on the \
             broker's machine says whether it is stored like that; --offset reads on behind it",
            position.index, self.topic, position.next
        ))
    }
}
