//! The produce load: requests made before and replayed, on whichever connection to the leader has
//! room.

use streamd_wire::kafka::{ApiKey, ResponseHeader};

use crate::conn::Pending;
use crate::drive::{Load, Next, drive};
use crate::failure::{Context, Result};
use crate::leaders::Leaders;
use crate::meter::Meter;
use crate::source::{Source, Wire, accepted};
use crate::workload::Workload;

struct Produce {
    /// One for each node that leads; connections are dealt to the nodes in turn.
    sources: Vec<Source>,
    version: i16,
    acks: i16,
    in_flight: usize,
    meter: Meter,
}

/// Runs a produce load over a topic that is there.
///
/// # Errors
/// See [`drive`]; a batch that the broker refuses.
pub fn run(leaders: &Leaders, wire: Wire<'_>, workload: &Workload, meter: Meter) -> Result<Meter> {
    let mut load = Produce {
        sources: Source::dealt(wire, workload, leaders, leaders.nodes())?,
        version: wire.version,
        acks: workload.acks,
        in_flight: workload.in_flight,
        meter,
    };
    let connections = leaders.connections(workload.connections);
    drive(&leaders.dealt(connections), &mut load)?;
    Ok(load.meter)
}

/// The body of the answer to a Produce request.
///
/// # Errors
/// Its header cannot be read.
pub fn body(frame: &[u8], version: i16) -> Result<&[u8]> {
    let header = ResponseHeader {
        api: ApiKey::Produce,
        version,
        correlation_id: 0,
    };
    let (_, body) = header
        .parse(frame)
        .context(|| "the answer to a Produce request cannot be read".to_owned())?;
    Ok(body)
}

impl Load for Produce {
    fn next(&mut self, conn: usize, now: u64) -> Result<Next> {
        let nodes = self.sources.len();
        Ok(match self.sources[conn % nodes].next(now, &self.meter) {
            // Other nodes have schedules of their own.
            Next::At(due) if nodes > 1 => Next::Later(due),
            other => other,
        })
    }

    fn in_flight(&self, _conn: usize) -> usize {
        self.in_flight
    }

    fn answered(&self, _conn: usize) -> bool {
        self.acks != 0
    }

    fn answer(&mut self, _conn: usize, frame: &[u8], asked: Pending, now: u64) -> Result<()> {
        accepted(body(frame, self.version)?, self.version, |_| {})?;
        self.sent(asked, now);
        Ok(())
    }

    fn sent(&mut self, asked: Pending, now: u64) {
        self.meter
            .answered(asked.due, now, asked.records, asked.wire_bytes);
    }

    fn meter(&mut self) -> &mut Meter {
        &mut self.meter
    }
}
