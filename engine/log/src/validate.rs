//! Validation of a batch that a client produced, as Kafka's `LogValidator` does it for magic 2.
//!
//! First the cheap checks and the CRC, then every record is walked (compressed ones through a
//! small window) in steps, so that a shard can do something else between two steps.

use streamd_model::ErrorCode;

use crate::batch::{BatchError, BatchHeader, crc_matches};
use crate::records::Walker;

/// How many faulty records an error names at most.
const BLAMED_MAX: usize = 64;

/// What the topic demands of its records.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// `max.message.bytes`: the size of a batch, bytes.
    pub batch_bytes_max: usize,
    /// `cleanup.policy` holds `compact`: a record needs a key.
    pub key_needed: bool,
    /// `message.timestamp.type=LogAppendTime`.
    pub log_append_time: bool,
    /// `message.timestamp.before.max.ms`.
    pub before_max_ms: i64,
    /// `message.timestamp.after.max.ms`.
    pub after_max_ms: i64,
    /// Wall time of the check, ms.
    pub now_ms: i64,
    /// Whether zstd may be used (Produce 7 and later).
    pub zstd: bool,
}

/// What validation found out about a good batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The header as the client sent it.
    pub header: BatchHeader,
    /// The greatest timestamp among the records, ms (for LogAppendTime: the time of the check).
    pub max_timestamp: i64,
    /// Whether the topic wants LogAppendTime.
    pub log_append_time: bool,
    /// Whether `max_timestamp` or the timestamp type has to be written into the stored header.
    pub restamp: bool,
}

/// A validation under way. Borrowed bytes: exactly one batch.
pub struct Validation<'a> {
    header: BatchHeader,
    rules: Rules,
    walker: Walker<'a>,
    next: i32,
    max_timestamp: i64,
    blamed: Vec<i32>,
    blame: Option<(ErrorCode, String)>,
}

/// The checks that need no look at the records: size, CRC, counts, flags.
pub fn check_header(bytes: &[u8], rules: &Rules) -> Result<BatchHeader, BatchError> {
    let header = BatchHeader::parse(bytes)?;
    if header.size != bytes.len() {
        // Kafka takes exactly one whole batch per partition since Produce 3.
        let text = if header.size < bytes.len() {
            format!(
                "{} bytes after the batch: exactly one is taken",
                bytes.len() - header.size
            )
        } else {
            format!(
                "a batch of {} bytes of which {} came",
                header.size,
                bytes.len()
            )
        };
        return Err(BatchError::invalid(text));
    }
    if header.size > rules.batch_bytes_max {
        return Err(BatchError::new(
            ErrorCode::MessageTooLarge,
            format!(
                "a batch of {} bytes; max.message.bytes allows {}",
                header.size, rules.batch_bytes_max
            ),
        ));
    }
    if !crc_matches(bytes) {
        return Err(BatchError::corrupt(format!(
            "the CRC-32C {:#010x} does not match",
            header.crc
        )));
    }
    if header.is_control() {
        return Err(BatchError::invalid("clients may not write control batches"));
    }
    if header.count <= 0 || header.last_offset_delta != header.count - 1 {
        return Err(BatchError::invalid(format!(
            "{} records, but the last offset delta is {}",
            header.count, header.last_offset_delta
        )));
    }
    if header.codec() == Some(crate::batch::Codec::Zstd) && !rules.zstd {
        return Err(BatchError::new(
            ErrorCode::UnsupportedCompressionType,
            "zstd needs Produce version 7 or later",
        ));
    }
    if header.is_idempotent() && (header.base_sequence < 0 || header.producer_epoch < 0) {
        return Err(BatchError::invalid(format!(
            "producer id {} with epoch {} and sequence {}",
            header.producer_id, header.producer_epoch, header.base_sequence
        )));
    }
    if header.is_transactional() && !header.is_idempotent() {
        return Err(BatchError::invalid(
            "a transactional batch without a producer id",
        ));
    }
    Ok(header)
}

impl<'a> Validation<'a> {
    /// Does the cheap checks and the CRC, and makes ready to walk the records.
    pub fn begin(bytes: &'a [u8], rules: Rules) -> Result<Validation<'a>, BatchError> {
        let header = check_header(bytes, &rules)?;
        let walker = Walker::new(bytes, &header)?;
        Ok(Validation {
            header,
            rules,
            walker,
            next: 0,
            max_timestamp: -1,
            blamed: Vec::new(),
            blame: None,
        })
    }

    /// Walks about `bytes` of uncompressed records. `Some` when the whole batch is good.
    pub fn step(&mut self, bytes: u64) -> Result<Option<Facts>, BatchError> {
        let until = self.walker.position().saturating_add(bytes);
        while self.next < self.header.count {
            let r = match self.walker.quick_record() {
                Some(r) => r,
                None => match self.walker.slow_record(until)? {
                    Some(r) => r,
                    None => return Ok(None),
                },
            };
            if r.offset_delta != self.next {
                return Err(BatchError::invalid(format!(
                    "record {} has offset delta {}: they must go up by one",
                    self.next, r.offset_delta
                )));
            }
            let t = self.header.base_timestamp.saturating_add(r.timestamp_delta);
            if t > self.max_timestamp {
                self.max_timestamp = t;
            }
            if self.rules.key_needed && r.null_key {
                self.accuse(ErrorCode::InvalidRecord, || {
                    "a record without a key in a compacted topic".to_owned()
                });
            }
            if !self.rules.log_append_time {
                self.check_time(t);
            }
            self.next += 1;
            if self.walker.position() >= until && self.next < self.header.count {
                return Ok(None);
            }
        }
        self.finish().map(Some)
    }

    /// Runs all steps at once.
    pub fn run(mut self) -> Result<Facts, BatchError> {
        loop {
            if let Some(facts) = self.step(u64::MAX)? {
                return Ok(facts);
            }
        }
    }

    #[inline]
    fn check_time(&mut self, t: i64) {
        let Rules {
            now_ms,
            before_max_ms,
            after_max_ms,
            ..
        } = self.rules;
        if t == -1 {
            return;
        }
        if t.saturating_sub(now_ms) > after_max_ms || now_ms.saturating_sub(t) > before_max_ms {
            self.accuse(ErrorCode::InvalidTimestamp, || {
                format!(
                    "timestamp {t} is outside the range that the topic allows at {now_ms}: at \
                     most {before_max_ms} ms before and {after_max_ms} ms after"
                )
            });
        }
    }

    #[cold]
    fn accuse(&mut self, code: ErrorCode, text: impl FnOnce() -> String) {
        if self.blame.is_none() {
            self.blame = Some((code, text()));
        }
        if self.blamed.len() < BLAMED_MAX && self.blamed.last() != Some(&self.next) {
            self.blamed.push(self.next);
        }
    }

    fn finish(&mut self) -> Result<Facts, BatchError> {
        if !self.walker.at_end()? {
            return Err(BatchError::invalid(format!(
                "bytes are left after the {} records that the header counts",
                self.header.count
            )));
        }
        if let Some((code, text)) = self.blame.take() {
            return Err(BatchError {
                code,
                text,
                records: std::mem::take(&mut self.blamed),
            });
        }
        let lat = self.rules.log_append_time;
        let max_timestamp = if lat {
            self.rules.now_ms
        } else {
            self.max_timestamp
        };
        let restamp =
            lat || self.header.is_log_append_time() || max_timestamp != self.header.max_timestamp;
        Ok(Facts {
            header: self.header,
            max_timestamp,
            log_append_time: lat,
            restamp,
        })
    }
}
