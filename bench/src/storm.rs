//! The connection storm: open, ask for the versions, produce one request, close; as many
//! connections at a time as asked for.
//!
//! Latency runs from when a connection was due (open loop) or begun to its first acknowledgement.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use streamd_wire::kafka::frame::encode_request;
use streamd_wire::kafka::{ApiVersionsRequest, Writer};

use crate::admin::CLIENT_ID;
use crate::conn::{Conn, Template};
use crate::drive::Next;
use crate::failure::{Context, Failure, Result};
use crate::meter::Meter;
use crate::produce;
use crate::source::{Source, Wire, accepted};
use crate::sys::{Poll, Ready, exact_timers};
use crate::workload::Workload;

/// How long a single connection may take.
const CONNECTION_MAX: u64 = 60_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Connecting,
    Versions,
    Producing,
}

#[derive(Debug)]
struct Slot {
    conn: Conn,
    stage: Stage,
    produce: Rc<Template>,
    due: u64,
    begun: u64,
}

struct Storm {
    address: SocketAddr,
    version: i16,
    poll: Poll,
    slots: Vec<Option<Slot>>,
    versions: Rc<Template>,
    source: Source,
    meter: Meter,
}

/// Runs a storm over a topic that is there.
///
/// # Errors
/// A connection fails or is answered with an error, or takes a minute.
pub fn run(
    address: SocketAddr,
    wire: Wire<'_>,
    workload: &Workload,
    meter: Meter,
) -> Result<Meter> {
    exact_timers();
    let mut w = Writer::new();
    encode_request(
        &ApiVersionsRequest::default(),
        0,
        0,
        Some(CLIENT_ID),
        &mut w,
    )
    .context(|| "cannot encode ApiVersions".into())?;
    let mut storm = Storm {
        address,
        version: wire.version,
        poll: Poll::new(workload.connections)?,
        slots: (0..workload.connections).map(|_| None).collect(),
        versions: Rc::new(Template {
            head: w.into_parts().0,
            ..Template::default()
        }),
        source: Source::new(wire, workload)?,
        meter,
    };
    storm.until_done()?;
    Ok(storm.meter)
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        None,
    )?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket.into()),
    }
}

impl Storm {
    fn until_done(&mut self) -> Result<()> {
        let clock = self.meter.clock();
        let mut ready = Vec::new();
        loop {
            let now = clock.now();
            self.meter.tick(now)?;
            let wake = self.open(now)?;
            let oldest = self.slots.iter().flatten().map(|slot| slot.begun).min();
            match oldest {
                None if self.meter.over() && wake.is_none() => return Ok(()),
                Some(begun) if now > begun + CONNECTION_MAX => {
                    return Err(Failure::new(
                        "a connection was not answered within a minute",
                    ));
                }
                _ => {}
            }
            let until = [wake, self.meter.next_tick(), Some(now + CONNECTION_MAX)];
            let until = until.into_iter().flatten().min().unwrap_or(now);
            let timeout = Duration::from_nanos(until.saturating_sub(clock.now()));
            ready.clear();
            self.poll.wait(timeout, |event| ready.push(event))?;
            for event in &ready {
                self.serve(*event)?;
            }
        }
    }

    /// Opens connections in free slots; says when the next one is due.
    fn open(&mut self, now: u64) -> Result<Option<u64>> {
        for token in 0..self.slots.len() {
            if self.slots[token].is_some() {
                continue;
            }
            let (produce, due) = match self.source.next(now, &self.meter) {
                Next::Send(template, due) => (template, due),
                Next::At(due) | Next::Later(due) => return Ok(Some(due)),
                Next::Nothing => return Ok(None),
            };
            let stream = connect(self.address).context(|| {
                let address = self.address;
                format!("cannot connect to {address} (out of ports? then give a lower --rate)")
            })?;
            self.poll.add(&stream, token)?;
            self.poll.watch_write(&stream, token, true)?;
            self.slots[token] = Some(Slot {
                conn: Conn::of(stream),
                stage: Stage::Connecting,
                produce,
                due,
                begun: now,
            });
        }
        Ok(None)
    }

    fn serve(&mut self, event: Ready) -> Result<()> {
        let token = event.token;
        let Some(mut slot) = self.slots[token].take() else {
            return Ok(());
        };
        if slot.stage == Stage::Connecting {
            let error = slot.conn.stream.take_error()?;
            error
                .map_or(Ok(()), Err)
                .context(|| format!("cannot connect to {}", self.address))?;
            slot.stage = Stage::Versions;
            slot.conn.begin(self.versions.clone(), 0, true);
        } else if event.read && self.receive(&mut slot)? {
            // Dropped, and with it closed: the slot is free.
            return Ok(());
        }
        slot.conn.flush()?;
        let sending = slot.conn.sending();
        self.poll.watch_write(&slot.conn.stream, token, sending)?;
        self.slots[token] = Some(slot);
        Ok(())
    }

    /// Takes answers; true after the last one.
    fn receive(&mut self, slot: &mut Slot) -> Result<bool> {
        let (mut versions, mut done) = (false, false);
        let (stage, version) = (slot.stage, self.version);
        slot.conn.receive(|frame, _| {
            match stage {
                // The correlation id, then an error code, in every version.
                Stage::Versions if frame.get(4..6) == Some(&[0, 0]) => versions = true,
                Stage::Producing => {
                    accepted(produce::body(frame, version)?, version, |_| {})?;
                    done = true;
                }
                _ => return Err(Failure::new("the broker refused ApiVersions")),
            }
            Ok(())
        })?;
        if versions {
            slot.stage = Stage::Producing;
            slot.conn.begin(slot.produce.clone(), slot.due, true);
        }
        if done {
            let now = self.meter.clock().now();
            let (records, bytes) = (slot.produce.records, slot.produce.wire_bytes);
            self.meter.answered(slot.due, now, records, bytes);
        }
        Ok(done)
    }
}
