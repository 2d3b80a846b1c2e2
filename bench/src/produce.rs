//! The produce load: requests made before and replayed, on whichever connection has room.

use std::net::SocketAddr;

use streamd_wire::kafka::{ApiKey, ResponseHeader};

use crate::conn::Pending;
use crate::drive::{Load, Next, drive};
use crate::failure::{Context, Result};
use crate::meter::Meter;
use crate::source::{Source, Wire, accepted};
use crate::workload::Workload;

struct Produce {
    source: Source,
    version: i16,
    acks: i16,
    in_flight: usize,
    meter: Meter,
}

/// Runs a produce load over a topic that is there.
///
/// # Errors
/// See [`drive`]; a batch that the broker refuses.
pub fn run(
    address: SocketAddr,
    wire: Wire<'_>,
    workload: &Workload,
    meter: Meter,
) -> Result<Meter> {
    let mut load = Produce {
        source: Source::new(wire, workload)?,
        version: wire.version,
        acks: workload.acks,
        in_flight: workload.in_flight,
        meter,
    };
    drive(address, workload.connections, &mut load)?;
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
    fn next(&mut self, _conn: usize, now: u64) -> Result<Next> {
        Ok(self.source.next(now, &self.meter))
    }

    fn in_flight(&self, _conn: usize) -> usize {
        self.in_flight
    }

    fn answered(&self) -> bool {
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
