//! `streamctl log verify`: every byte of segment files is looked at, and what is wrong is named.
//!
//! Damage: bytes that are no batch, a wrong CRC, records that do not make what the header counts,
//! offsets that go back. A gap between offsets is only noted: compaction leaves such gaps.

use std::path::Path;

use indicatif::ProgressBar;
use serde_json::{Value, json};
use streamd_log::batch::{BatchError, BatchHeader};
use streamd_log::records::Walker;

use super::cuts;
use super::files::{Segment, cannot};
use super::scan::{Found, Scan};
use crate::cli::Global;
use crate::failure::{Failure, Result};
use crate::out;

/// So many findings of a file are kept; the rest is only counted.
const FINDINGS_MAX: usize = 100;

/// Something that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    position: u64,
    what: String,
}

/// What a file holds.
#[derive(Debug, Default)]
struct Verified {
    batches: u64,
    records: u64,
    /// The first offset, and the one after the last.
    offsets: Option<(i64, i64)>,
    /// Offsets that are missing between batches.
    missing: u64,
    tail: u64,
    damage: Vec<Finding>,
    damaged: u64,
}

/// Runs the command.
///
/// # Errors
/// A file cannot be read, or is damaged.
pub fn run(global: &Global, segments: &[Segment]) -> Result<()> {
    let bar = out::progress(segments.iter().map(|s| s.size).sum());
    let mut verified = Vec::new();
    for segment in segments {
        bar.set_message(segment.path.display().to_string());
        verified.push(verify(segment, &bar)?);
    }
    bar.finish_and_clear();
    let cuts = cuts::beside(segments)?;
    let damaged = verified.iter().filter(|v| v.damaged > 0).count()
        + cuts.iter().filter(|c| c.is_damaged()).count();
    if global.json {
        let files: Vec<Value> = segments
            .iter()
            .zip(&verified)
            .map(|(s, v)| document(&s.path, v))
            .collect();
        let cuts: Vec<Value> = cuts.iter().map(|c| c.document()).collect();
        out::json(&json!({"files": files, "cuts": cuts, "damaged": damaged}))?;
    } else {
        let mut text = text(segments, &verified);
        if !cuts.is_empty() {
            let lines: Vec<_> = cuts.iter().map(|c| c.text()).collect();
            text.push_str(&format!("\n\n{}", lines.join("\n")));
        }
        out::line(text)?;
    }
    let files = out::plural((segments.len() + cuts.len()) as u64, "file");
    if damaged > 0 {
        return Err(Failure::failed(format!(
            "{damaged} of {files} damaged. Keep a copy before anything else touches them; a \
             replica on another broker has the same records"
        )));
    }
    let records: u64 = verified.iter().map(|v| v.records).sum();
    out::say(format_args!(
        "{files}, {}: sound",
        out::plural(records, "record")
    ));
    Ok(())
}

fn verify(segment: &Segment, bar: &ProgressBar) -> Result<Verified> {
    let mut scan = Scan::open(&segment.path)?;
    let mut v = Verified::default();
    while let Some((at, found)) = scan.next().map_err(|e| cannot(&segment.path, &e))? {
        match found {
            Found::Batch {
                header,
                bytes,
                crc_ok,
            } => {
                bar.inc(bytes.len() as u64);
                if crc_ok {
                    v.batch(at, segment.base, &header, bytes);
                } else {
                    let first = header.base_offset;
                    v.fault(
                        at,
                        format!("the CRC of the batch at offset {first} is wrong"),
                    );
                    v.batches += 1;
                }
            }
            Found::Tail(zeros) => {
                bar.inc(zeros);
                v.tail = zeros;
            }
            Found::Damage { what, left } => {
                bar.inc(left);
                v.fault(
                    at,
                    format!("{what} ({left} bytes from here on cannot be read)"),
                );
            }
        }
    }
    Ok(v)
}

impl Verified {
    fn fault(&mut self, position: u64, what: String) {
        self.damaged += 1;
        if self.damage.len() < FINDINGS_MAX {
            self.damage.push(Finding { position, what });
        }
    }

    fn batch(&mut self, at: u64, name: Option<i64>, header: &BatchHeader, bytes: &[u8]) {
        self.batches += 1;
        let base = header.base_offset;
        let next = base.checked_add(i64::from(header.last_offset_delta) + 1);
        let Some(next) = next.filter(|next| base >= 0 && *next > base) else {
            let delta = header.last_offset_delta;
            return self.fault(
                at,
                format!("a batch from offset {base} with a delta of {delta}"),
            );
        };
        match (self.offsets, name) {
            (Some((_, expected)), _) if base < expected => {
                self.fault(
                    at,
                    format!("offset {base} where {expected} or more was expected"),
                );
            }
            (None, Some(name)) if base < name => {
                self.fault(
                    at,
                    format!("offset {base}, less than {name} in the file's name"),
                );
            }
            (Some((_, expected)), _) => self.missing += base.abs_diff(expected),
            _ => {}
        }
        match walk(header, bytes) {
            Ok(()) => self.records += header.count.max(0) as u64,
            Err(e) => self.fault(at, format!("the batch at offset {base}: {}", e.text)),
        }
        let (first, _) = self.offsets.unwrap_or((base, next));
        self.offsets = Some((first, next));
    }
}

/// Checks that the records are what the header counts, with rising offsets.
fn walk(header: &BatchHeader, bytes: &[u8]) -> std::result::Result<(), BatchError> {
    let bad = |text: String| BatchError::new(streamd_model::ErrorCode::InvalidRecord, text);
    if header.count < 0 {
        return Err(bad(format!("a count of {} records", header.count)));
    }
    let mut walker = Walker::new(bytes, header)?;
    let mut before = -1;
    for _ in 0..header.count {
        let delta = walker.whole_record()?.offset_delta;
        if delta <= before || delta > header.last_offset_delta {
            return Err(bad(format!(
                "a record with offset delta {delta} after {before}, of at most {}",
                header.last_offset_delta
            )));
        }
        before = delta;
    }
    if header.count > 0 && !walker.at_end()? {
        return Err(bad(format!(
            "bytes behind the {} records counted",
            header.count
        )));
    }
    Ok(())
}

fn text(segments: &[Segment], verified: &[Verified]) -> String {
    let mut table = out::table(&[
        "File",
        ">Size",
        ">Batches",
        ">Records",
        ">First",
        ">Last",
        ">Zero tail",
        "Result",
    ]);
    let mut findings = Vec::new();
    let mut empty = 0;
    for (segment, v) in segments.iter().zip(verified) {
        // A broker keeps many partitions in which nothing was ever written.
        if v.batches == 0 && v.damaged == 0 && segments.len() > 1 {
            empty += 1;
            continue;
        }
        let path = segment.path.display().to_string();
        let offset = |n: Option<i64>| n.map_or_else(|| "-".into(), |n| n.to_string());
        let result = match (v.damaged, v.missing) {
            (0, 0) => "ok".into(),
            (0, missing) => format!("ok, {missing} offsets missing in between"),
            (_, _) => "DAMAGED".into(),
        };
        table.add_row([
            path.clone(),
            out::size(segment.size),
            out::count(v.batches),
            out::count(v.records),
            offset(v.offsets.map(|o| o.0)),
            offset(v.offsets.map(|o| o.1 - 1)),
            if v.tail > 0 {
                out::size(v.tail)
            } else {
                "-".into()
            },
            result,
        ]);
        findings.extend(
            v.damage
                .iter()
                .map(|f| format!("{path}: byte {}: {}", f.position, f.what)),
        );
        if v.damaged > v.damage.len() as u64 {
            findings.push(format!(
                "{path}: and {} more",
                v.damaged - v.damage.len() as u64
            ));
        }
    }
    let mut text = String::new();
    if empty < segments.len() as u64 {
        text = out::text(&table);
    }
    if empty > 0 {
        let gap = if text.is_empty() { "" } else { "\n" };
        text.push_str(&format!(
            "{gap}{} without a batch",
            out::plural(empty, "file")
        ));
    }
    if !findings.is_empty() {
        text.push_str("\n\n");
        text.push_str(&findings.join("\n"));
    }
    text
}

fn document(path: &Path, v: &Verified) -> Value {
    let damage: Vec<Value> = v
        .damage
        .iter()
        .map(|f| json!({"position": f.position, "what": f.what}))
        .collect();
    json!({
        "file": path.display().to_string(),
        "batches": v.batches,
        "records": v.records,
        "first_offset": v.offsets.map(|o| o.0),
        "last_offset": v.offsets.map(|o| o.1 - 1),
        "missing_offsets": v.missing,
        "zero_tail_bytes": v.tail,
        "damage": damage,
        "ok": v.damaged == 0,
    })
}

#[cfg(test)]
mod tests {
    use super::super::scan::tests::batch;
    use super::*;
    use streamd_log::batch::restamp_time;

    /// Verifies a file of these bytes that is named after `base`.
    fn check(base: i64, bytes: &[u8]) -> Verified {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        std::fs::write(&path, bytes).expect("written");
        let segment = Segment {
            path,
            size: bytes.len() as u64,
            base: Some(base),
        };
        verify(&segment, &ProgressBar::hidden()).expect("reads")
    }

    #[test]
    fn a_sound_file_with_a_gap_and_a_tail() {
        let mut file = [batch(10, 3), batch(13, 1), batch(20, 2)].concat();
        file.resize(file.len() + 4096, 0);
        let v = check(10, &file);
        assert_eq!((v.batches, v.records, v.damaged), (3, 6, 0));
        assert_eq!((v.offsets, v.missing, v.tail), (Some((10, 22)), 6, 4096));
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let file = [batch(0, 2), batch(2, 1)].concat();
        let n = batch(0, 2).len();
        for at in 0..n {
            let mut bytes = file.clone();
            bytes[at] ^= 0x10;
            let v = check(0, &bytes);
            // The leader epoch (12 to 15) is stamped by brokers and under no checksum.
            let checked = !(12..16).contains(&at);
            assert_eq!(v.damaged > 0, checked, "byte {at}: {:?}", v.damage);
        }
    }

    #[test]
    fn offsets_that_go_back() {
        let v = check(0, &[batch(5, 2), batch(6, 1)].concat());
        assert_eq!(v.damaged, 1);
        assert_eq!(v.damage[0].position, batch(5, 2).len() as u64);
        assert_eq!(v.damage[0].what, "offset 6 where 7 or more was expected");
        let v = check(9, &batch(5, 2));
        assert_eq!(v.damage[0].what, "offset 5, less than 9 in the file's name");
    }

    #[test]
    fn a_count_that_the_records_do_not_make() {
        for count in [1, 3, -1] {
            let mut bytes = batch(0, 2);
            bytes[57..61].copy_from_slice(&i32::to_be_bytes(count));
            // A right CRC, so that only the records can tell.
            restamp_time(&mut bytes, 5, false);
            let v = check(0, &bytes);
            assert_eq!(v.damaged, 1, "{count}");
        }
    }

    #[test]
    fn findings_stand_under_the_table() {
        let mut bytes = batch(0, 1);
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        let v = check(0, &bytes);
        let segment = Segment {
            path: "f.log".into(),
            size: 70,
            base: Some(0),
        };
        let text = text(&[segment], &[v]);
        assert!(text.contains("DAMAGED"), "{text}");
        assert!(
            text.ends_with("f.log: byte 0: the CRC of the batch at offset 0 is wrong"),
            "{text}"
        );
    }
}
