//! Writers and readers at once: from the producer's hands to the consumers', one topic to many
//! groups, and a reader that starts behind.
//!
//! Every partition of the topic has one writer, and its requests hold equally many records: so an
//! offset says which request a record came from, and when that was due. Readers ask by assigned
//! partitions, one connection for a group (to each node that leads), and wait at the broker for
//! what comes (long poll).
//! A record counts when a reader has it; acknowledgements are counted apart.

use crate::batch;
use crate::conn::Pending;
use crate::drive::{Load, Next, drive};
use crate::failure::{Failure, Result};
use crate::fetch;
use crate::leaders::Leaders;
use crate::meter::Meter;
use crate::produce;
use crate::source::{Source, Wire, accepted};
use crate::workload::{Kind, Workload};

/// What a partition was sent in this run.
#[derive(Debug)]
struct Line {
    /// The offset of the first record.
    base: i64,
    /// When each request was due.
    dues: Vec<u64>,
    /// How many of them are acknowledged.
    acked: usize,
}

struct Stream<'a> {
    wire: Wire<'a>,
    fetch_version: i16,
    /// Connections are dealt to these in turn.
    leaders: &'a Leaders,
    /// One for each of the first connections.
    writers: Vec<Source>,
    in_flight: usize,
    acks: i16,
    batch_records: i64,
    lines: Vec<Line>,
    /// For each group its connections' next offsets.
    readers: Vec<Vec<i64>>,
    turn: usize,
    /// Whether the readers begin when the interval does, at the start of the partitions.
    behind: bool,
    meter: Meter,
}

/// Runs a load of writers and readers over a topic whose partitions end at `ends`.
///
/// # Errors
/// See [`drive`]; an error of the broker; offsets with a gap.
pub fn run(
    leaders: &Leaders,
    wire: (Wire<'_>, i16),
    ends: &[i64],
    workload: &Workload,
    meter: Meter,
) -> Result<Meter> {
    let (wire, fetch_version) = wire;
    let behind = workload.kind == Kind::CatchUp;
    let from = if behind {
        vec![0; ends.len()]
    } else {
        ends.to_vec()
    };
    let line = |end: &i64| Line {
        base: *end,
        dues: Vec::new(),
        acked: 0,
    };
    let writers = leaders.connections(workload.connections);
    let mut load = Stream {
        wire,
        fetch_version,
        leaders,
        writers: Source::dealt(wire, workload, leaders, writers)?,
        in_flight: workload.in_flight,
        acks: workload.acks,
        batch_records: workload.batch_records as i64,
        lines: ends.iter().map(line).collect(),
        readers: vec![from; workload.groups],
        turn: 0,
        behind,
        meter,
    };
    let connections = writers + workload.groups * leaders.nodes();
    drive(&leaders.dealt(connections), &mut load)?;
    Ok(load.meter)
}

impl Stream<'_> {
    fn write(&mut self, conn: usize, now: u64) -> Next {
        match self.writers[conn].next(now, &self.meter) {
            Next::Send(template, due) => {
                for partition in &template.partitions {
                    self.lines[*partition as usize].dues.push(due);
                }
                Next::Send(template, due)
            }
            // Other writers have schedules of their own.
            Next::At(due) => Next::Later(due),
            other => other,
        }
    }

    /// The group and the node of a connection that reads.
    fn reader(&self, conn: usize) -> Option<(usize, usize)> {
        let reader = conn.checked_sub(self.writers.len())?;
        let nodes = self.leaders.nodes();
        Some((reader / nodes, reader % nodes))
    }

    fn read(&mut self, (group, node): (usize, usize), now: u64) -> Result<Next> {
        let offsets = &self.readers[group];
        let waits = self.behind && !self.meter.begun();
        let done = self.meter.over() && (self.behind || self.has_all_sent(offsets));
        if waits || done {
            return Ok(Next::Nothing);
        }
        self.turn += 1;
        let count = offsets.len();
        let all = (0..count).map(|i| (i + self.turn) % count);
        let all = all.filter(|place| self.leaders.node(*place as i32) == node);
        let all = all.map(|partition| (partition as i32, offsets[partition]));
        let request = fetch::request(self.wire.topic, self.fetch_version, all)?;
        Ok(Next::Send(request, now))
    }

    fn has_all_sent(&self, offsets: &[i64]) -> bool {
        let mut all = self.lines.iter().zip(offsets);
        all.all(|(line, next)| *next >= line.base + line.dues.len() as i64 * self.batch_records)
    }

    fn has_all_acknowledged(&self, offsets: &[i64]) -> bool {
        let mut all = self.lines.iter().zip(offsets);
        all.all(|(line, next)| *next >= line.base + line.acked as i64 * self.batch_records)
    }

    /// Takes what a group was given of a partition.
    fn take(&mut self, group: usize, partition: i32, batches: &[u8], now: u64) -> Result<()> {
        let walked = batch::walk(batches);
        let place = usize::try_from(partition).unwrap_or(usize::MAX);
        let (Some(line), Some(next)) = (self.lines.get(place), walked.next) else {
            return Ok(());
        };
        let from = std::mem::replace(&mut self.readers[group][place], next);
        if next - from != walked.records as i64 {
            return Err(Failure::new(format!(
                "partition {partition} from offset {from} on: {} records came, up to offset {next}",
                walked.records
            )));
        }
        // What was there before the run has no due time.
        let old = (line.base - from).clamp(0, next - from) as u64;
        let count = walked.records.max(1);
        if old > 0 {
            self.meter.count(now, old, walked.bytes * old / count);
        }
        let sent = |offset: i64| ((offset - line.base).max(0) / self.batch_records) as usize;
        for due in line.dues.get(sent(from)..sent(next)).unwrap_or_default() {
            let records = self.batch_records as u64;
            let bytes = walked.bytes * records / count;
            self.meter.answered(*due, now, records, bytes);
        }
        Ok(())
    }
}

impl Load for Stream<'_> {
    fn next(&mut self, conn: usize, now: u64) -> Result<Next> {
        match self.reader(conn) {
            None => Ok(self.write(conn, now)),
            Some(reader) => self.read(reader, now),
        }
    }

    fn in_flight(&self, conn: usize) -> usize {
        if conn < self.writers.len() {
            self.in_flight
        } else {
            1
        }
    }

    fn answered(&self, conn: usize) -> bool {
        self.acks != 0 || conn >= self.writers.len()
    }

    fn answer(&mut self, conn: usize, frame: &[u8], asked: Pending, now: u64) -> Result<()> {
        let Some((group, _)) = self.reader(conn) else {
            let version = self.wire.version;
            let lines = &mut self.lines;
            accepted(produce::body(frame, version)?, version, |partition| {
                let place = usize::try_from(partition).unwrap_or(usize::MAX);
                if let Some(line) = lines.get_mut(place) {
                    line.acked += 1;
                }
            })?;
            self.meter.acknowledged(asked.due, now, asked.records);
            return Ok(());
        };
        fetch::answered(frame, self.fetch_version, |partition, batches| {
            self.take(group, partition, batches, now)
        })?;
        if self.behind && self.has_all_acknowledged(&self.readers[group]) {
            self.meter.catch_up(now)?;
        }
        Ok(())
    }

    fn sent(&mut self, _asked: Pending, _now: u64) {}

    fn meter(&mut self) -> &mut Meter {
        &mut self.meter
    }
}
