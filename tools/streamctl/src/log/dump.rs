//! `streamctl log dump`: the batches of segment files, a line each, and their records if asked.
//!
//! Printed as it is read: a segment may hold more batches than memory should.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use indicatif::ProgressBar;
use serde_json::{Map, Value, json};
use streamd_log::batch::BatchHeader;
use streamd_log::compress::INFLATED_MAX;
use streamd_log::record_view::{BatchView, RecordView};

use super::files::{Segment, cannot};
use super::scan::{Found, Scan};
use crate::cli::Global;
use crate::failure::{Failure, Result};
use crate::format::record_json;
use crate::out::{self, Out};

const COLUMNS: &str = concat!(
    "  Position       Size         Base         Last  Records  Codec   CRC  Epoch  ",
    "Producer id/epoch/seq  Max timestamp             Flags"
);

struct Dump<'a> {
    global: &'a Global,
    records: bool,
    out: Out,
    damaged: u64,
}

/// Runs the command.
///
/// # Errors
/// A file cannot be read, or is damaged.
pub fn run(global: &Global, segments: &[Segment], records: bool) -> Result<()> {
    let total = segments.iter().map(|s| s.size).sum();
    // On a terminal what is printed shows the progress.
    let bar = if io::stdout().is_terminal() {
        ProgressBar::hidden()
    } else {
        out::progress(total)
    };
    let mut dump = Dump {
        global,
        records,
        out: Out::default(),
        damaged: 0,
    };
    for (i, segment) in segments.iter().enumerate() {
        bar.set_message(segment.path.display().to_string());
        if !global.json {
            let gap = if i > 0 { "\n" } else { "" };
            dump.line(&format!(
                "{gap}{} ({})",
                segment.path.display(),
                out::size(segment.size)
            ))?;
            dump.line(COLUMNS)?;
        }
        dump.file(segment, &bar)?;
    }
    bar.finish_and_clear();
    dump.out.flush().map_err(Failure::stdout)?;
    if dump.damaged > 0 {
        return Err(Failure::failed(format!(
            "damage in {}; `streamctl log verify` names all that is wrong",
            out::plural(dump.damaged, "place")
        )));
    }
    Ok(())
}

impl Dump<'_> {
    fn line(&mut self, text: &str) -> Result<()> {
        writeln!(self.out, "{text}").map_err(Failure::stdout)
    }

    fn file(&mut self, segment: &Segment, bar: &ProgressBar) -> Result<()> {
        let name = segment.path.display().to_string();
        let mut scan = Scan::open(&segment.path)?;
        while let Some((at, found)) = scan.next().map_err(|e| cannot(&segment.path, &e))? {
            match found {
                Found::Batch {
                    header,
                    bytes,
                    crc_ok,
                } => {
                    bar.inc(bytes.len() as u64);
                    self.damaged += u64::from(!crc_ok);
                    self.batch((&name, at, crc_ok), &header, bytes)?;
                }
                Found::Tail(zeros) if self.global.json => {
                    let tail = json!({"position": at, "bytes": zeros});
                    self.line(&json!({"file": name, "zero_tail": tail}).to_string())?;
                }
                Found::Tail(zeros) => {
                    self.line(&format!("{at:>10} {zeros:>10}  zeros, allocated ahead"))?;
                }
                Found::Damage { what, left } => self.damage(&name, at, &what, left)?,
            }
        }
        Ok(())
    }

    fn damage(&mut self, name: &str, at: u64, what: &str, left: u64) -> Result<()> {
        self.damaged += 1;
        if self.global.json {
            let damage = json!({"position": at, "bytes": left, "what": what});
            self.line(&json!({"file": name, "damage": damage}).to_string())
        } else {
            self.line(&format!("{at:>10} {left:>10}  DAMAGED: {what}"))
        }
    }

    fn batch(
        &mut self,
        (name, at, crc_ok): (&str, u64, bool),
        header: &BatchHeader,
        bytes: &[u8],
    ) -> Result<()> {
        if !self.global.json {
            self.line(&batch_line(at, crc_ok, header))?;
        }
        let mut objects = Vec::new();
        if self.records && !header.is_control() {
            match BatchView::new(bytes, INFLATED_MAX) {
                Ok(view) => {
                    for record in view.records() {
                        match record {
                            Ok(r) if self.global.json => objects.push(record_json(&r).into()),
                            Ok(r) => self.line(&record_line(&r))?,
                            Err(e) => self.damage(name, at, &e.text, bytes.len() as u64)?,
                        }
                    }
                }
                Err(e) => self.damage(name, at, &e.text, bytes.len() as u64)?,
            }
        }
        if self.global.json {
            let mut object = batch_json(header);
            object.insert("file".into(), name.into());
            object.insert("position".into(), at.into());
            object.insert("crc_ok".into(), crc_ok.into());
            if self.records {
                object.insert("records".into(), Value::Array(objects));
            }
            self.line(&Value::Object(object).to_string())?;
        }
        Ok(())
    }
}

fn codec(header: &BatchHeader) -> &'static str {
    header.codec().map_or("unknown", |c| c.name())
}

fn flags(header: &BatchHeader) -> String {
    let flags = [
        (header.is_transactional(), "transactional"),
        (header.is_control(), "control"),
        (header.is_log_append_time(), "append-time"),
    ];
    flags
        .iter()
        .filter(|f| f.0)
        .map(|f| f.1)
        .collect::<Vec<_>>()
        .join(" ")
}

fn last(header: &BatchHeader) -> i64 {
    header
        .base_offset
        .saturating_add(i64::from(header.last_offset_delta))
}

fn batch_line(at: u64, crc_ok: bool, h: &BatchHeader) -> String {
    let producer = if h.is_idempotent() {
        format!("{}/{}/{}", h.producer_id, h.producer_epoch, h.base_sequence)
    } else {
        "-".into()
    };
    let line = format!(
        "{at:>10} {:>10} {:>12} {:>12} {:>8}  {:<7} {:<4} {:>5}  {producer:<21}  {:<24}  {}",
        h.size,
        h.base_offset,
        last(h),
        h.count,
        codec(h),
        if crc_ok { "ok" } else { "BAD" },
        h.epoch,
        out::time(h.max_timestamp),
        flags(h),
    );
    line.trim_end().to_owned()
}

fn quoted(bytes: Option<&[u8]>) -> String {
    bytes.map_or_else(
        || "null".into(),
        |b| format!("{:?}", String::from_utf8_lossy(b)),
    )
}

fn record_line(r: &RecordView<'_>) -> String {
    let mut line = format!(
        "{:>34}  {}  {}: {}",
        r.offset,
        out::time(r.timestamp),
        quoted(r.key),
        quoted(r.value)
    );
    for (key, value) in r.headers() {
        let _ = write!(line, "  [{}: {}]", quoted(Some(key)), quoted(value));
    }
    line
}

fn batch_json(h: &BatchHeader) -> Map<String, Value> {
    let object = json!({
        "size": h.size,
        "base_offset": h.base_offset,
        "last_offset": last(h),
        "count": h.count,
        "codec": codec(h),
        "leader_epoch": h.epoch,
        "producer_id": h.producer_id,
        "producer_epoch": h.producer_epoch,
        "base_sequence": h.base_sequence,
        "base_timestamp": h.base_timestamp,
        "max_timestamp": h.max_timestamp,
        "log_append_time": h.is_log_append_time(),
        "transactional": h.is_transactional(),
        "control": h.is_control(),
    });
    match object {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::scan::tests::batch;
    use super::*;

    #[test]
    fn the_columns_stand_under_their_names() {
        let header = BatchHeader::parse(&batch(1000, 3)).expect("header");
        let line = batch_line(4096, true, &header);
        assert_eq!(
            line,
            "      4096        106         1000         1002        3  none    ok       1  \
             -                      1970-01-01T00:00:00.005Z"
        );
        for (column, value) in [("Position", "4096"), ("Last", "1002"), ("Records", "3")] {
            let name = COLUMNS.find(column).expect(column) + column.len();
            assert!(line[..name].ends_with(value), "{column}");
        }
        for (column, value) in [
            ("Codec", "none"),
            ("CRC", "ok"),
            ("Max", "1970"),
            ("Producer", "-"),
        ] {
            let at = COLUMNS.find(column).expect(column);
            assert!(line[at..].starts_with(value), "{column}: {}", &line[at..]);
        }
    }

    #[test]
    fn records_are_quoted() {
        let bytes = batch(7, 1);
        let view = BatchView::new(&bytes, 0).expect("view");
        let record = view.records().next().expect("one").expect("sound");
        assert!(record_line(&record).ends_with(r#"7  1970-01-01T00:00:00.005Z  "key": "value""#));
        assert_eq!(quoted(Some(b"a\n\xff\"")), "\"a\\n\u{fffd}\\\"\"");
        assert_eq!(quoted(None), "null");
    }
}
