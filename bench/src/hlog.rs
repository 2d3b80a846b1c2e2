//! Histograms as a file: an HdrHistogram interval log (version 1.3) with compressed V2 histograms,
//! which the tools for it read. Values are nanoseconds.

use std::time::{Duration, UNIX_EPOCH};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use crate::compare::Case;
use crate::failure::{Context, Result};

/// Nanoseconds in a unit of the log's column for the greatest value: milliseconds.
const MAX_UNIT: f64 = 1e6;

/// All histograms of all runs, tagged `LOAD/BROKER/ROUND`, and `/ack` behind that for those of
/// acknowledgements where the latency is another one.
///
/// # Errors
/// None but of the library.
pub fn log(cases: &[Case]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let what = || "cannot write the histograms".to_owned();
    let mut builder = IntervalLogWriterBuilder::new();
    builder.add_comment("bench: latencies in nanoseconds");
    builder
        .with_start_time(UNIX_EPOCH)
        .with_base_time(UNIX_EPOCH);
    builder.with_max_value_divisor(MAX_UNIT);
    let mut writer = builder
        .begin_log_with(&mut out, &mut serializer)
        .context(what)?;
    let mut at = Duration::ZERO;
    for case in cases {
        for (i, round) in case.rounds.iter().enumerate() {
            for run in round {
                let tag = tag(&format!("{}/{}/{}", case.workload.name, run.target, i + 1));
                let length = Duration::from_secs_f64(run.interval.seconds.max(0.0));
                let ack = format!("{tag}/ack");
                let latency = (tag, &run.histograms.latency);
                let both: [(String, &Option<Histogram<u64>>); 2] =
                    [latency, (ack, &run.histograms.ack)];
                for (tag, histogram) in both {
                    let Some(histogram) = histogram else { continue };
                    writer
                        .write_histogram(histogram, at, length, Tag::new(&tag))
                        .context(|| "cannot write a histogram".into())?;
                }
                at += length;
            }
        }
    }
    drop(writer);
    Ok(out)
}

/// Without what a tag cannot hold.
fn tag(text: &str) -> String {
    let allowed = |c: char| {
        if c == ',' || c.is_whitespace() {
            '_'
        } else {
            c
        }
    };
    text.chars().map(allowed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    #[test]
    fn what_is_logged_can_be_read_back() {
        let record = crate::record::tests::made_up();
        let bytes = log(&record.cases).unwrap();
        let (mut tags, mut medians) = (Vec::new(), Vec::new());
        for entry in IntervalLogIterator::new(&bytes) {
            let LogEntry::Interval(entry) = entry.unwrap() else {
                continue;
            };
            tags.push(entry.tag().unwrap().as_str().to_owned());
            let packed = entry.encoded_histogram();
            let packed = base64_bytes(packed);
            let read: Histogram<u64> = Deserializer::new()
                .deserialize(&mut std::io::Cursor::new(packed))
                .unwrap();
            medians.push(read.value_at_quantile(0.5) / 1000);
        }
        assert_eq!(tags.len(), 8);
        assert_eq!(tags[1], "produce/Kafka_<4.4>/1");
        assert_eq!(medians[..2], [100, 400]);
    }

    fn base64_bytes(text: &str) -> Vec<u8> {
        let digit = |c: u8| match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            _ => 63,
        };
        let digits: Vec<u32> = text
            .bytes()
            .filter(|c| *c != b'=')
            .map(|c| digit(c).into())
            .collect();
        let bits = |part: &[u32]| {
            part.iter()
                .enumerate()
                .fold(0, |b, (i, d)| b | d << (18 - 6 * i))
        };
        let bytes = |part: &[u32]| bits(part).to_be_bytes()[1..part.len()].to_vec();
        digits.chunks(4).flat_map(bytes).collect()
    }
}
