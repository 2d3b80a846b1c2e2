//! The checkpoint of a partition: up to where its log is known to be whole, and what must survive
//! that the segments do not hold (log start, producer state). One small file, replaced atomically.
//!
//! Recovery scans only from here on. `state` is opaque to this crate: it belongs to the offset
//! `next`, so whoever folds the batches after `next` into it gets the state of the log's end.

use streamd_model::{Epoch, Offset};

/// The name of the file in the partition's directory.
pub const FILE: &str = "checkpoint";
/// The most that a checkpoint file may hold, bytes.
pub const BYTES_MAX: usize = 64 << 20;

const MAGIC: &[u8; 4] = b"SDCP";
/// Version 1 had no high watermark.
const VERSION: u16 = 2;
const FIXED_V1: usize = 4 + 2 + 8 * 5 + 4;
const FIXED: usize = FIXED_V1 + 8;

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Checkpoint {
    /// The first offset that may be read.
    pub log_start: Offset,
    /// Base offset of the segment where the scan begins.
    pub segment: Offset,
    /// Position in it, bytes.
    pub position: u64,
    /// The offset of the next batch there.
    pub next: Offset,
    /// The greatest timestamp in that segment before `position`, ms; -1 for none.
    pub max_timestamp: i64,
    /// A high watermark that the owner gave: what lies before it is committed. `None` if it never
    /// gave one, or the file is of a version that had none.
    pub high: Option<Offset>,
    /// Leader epochs with their first offsets, rising.
    pub epochs: Vec<(Epoch, Offset)>,
    /// The owner's state at `next`.
    pub state: Vec<u8>,
}

impl Checkpoint {
    /// The checkpoint of a log without records that begins at offset `base`.
    pub fn empty(base: Offset) -> Checkpoint {
        let c = Checkpoint::default();
        Checkpoint {
            log_start: base,
            segment: base,
            next: base,
            max_timestamp: -1,
            ..c
        }
    }

    /// The bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FIXED + self.epochs.len() * 12 + self.state.len() + 8);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        for v in [
            self.log_start,
            self.segment,
            self.position as i64,
            self.next,
        ] {
            out.extend_from_slice(&v.to_le_bytes());
        }
        out.extend_from_slice(&self.max_timestamp.to_le_bytes());
        out.extend_from_slice(&self.high.unwrap_or(-1).to_le_bytes());
        out.extend_from_slice(&(self.epochs.len() as u32).to_le_bytes());
        for &(epoch, from) in &self.epochs {
            out.extend_from_slice(&epoch.to_le_bytes());
            out.extend_from_slice(&from.to_le_bytes());
        }
        out.extend_from_slice(&self.state);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the file's bytes; an error says what is wrong with them.
    pub fn decode(bytes: &[u8]) -> Result<Checkpoint, String> {
        let Some((body, crc)) = bytes.split_last_chunk::<4>() else {
            return Err(format!("{} bytes are no checkpoint", bytes.len()));
        };
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
            return Err("its CRC does not match".to_owned());
        }
        if body.len() < FIXED_V1 || &body[..4] != MAGIC {
            return Err("it does not begin like a checkpoint".to_owned());
        }
        let version = u16::from_le_bytes([body[4], body[5]]);
        let fixed = match version {
            1 => FIXED_V1,
            VERSION if body.len() >= FIXED => FIXED,
            VERSION => return Err(format!("{} bytes are too few", bytes.len())),
            _ => {
                return Err(format!(
                    "version {version}; this program reads versions 1 to {VERSION}"
                ));
            }
        };
        let long = |at: usize| {
            let mut w = [0u8; 8];
            w.copy_from_slice(&body[at..at + 8]);
            i64::from_le_bytes(w)
        };
        let high = (fixed == FIXED).then(|| long(46)).filter(|&h| h >= 0);
        let (head, rest) = body.split_at(fixed);
        let count = head.last_chunk::<4>().map_or(0, |c| u32::from_le_bytes(*c)) as usize;
        if count > rest.len() / 12 {
            return Err(format!("{count} epochs do not fit {} bytes", rest.len()));
        }
        let epochs = rest[..count * 12]
            .chunks_exact(12)
            .map(|e| {
                let mut w = [0u8; 8];
                w.copy_from_slice(&e[4..]);
                (
                    i32::from_le_bytes([e[0], e[1], e[2], e[3]]),
                    i64::from_le_bytes(w),
                )
            })
            .collect();
        Ok(Checkpoint {
            log_start: long(6),
            segment: long(14),
            position: long(22) as u64,
            next: long(30),
            max_timestamp: long(38),
            high,
            epochs,
            state: rest[count * 12..].to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_every_flipped_bit_is_seen() {
        let c = Checkpoint {
            log_start: 3,
            segment: 10,
            position: 77,
            next: 19,
            max_timestamp: -1,
            high: Some(18),
            epochs: vec![(0, 0), (4, 12)],
            state: vec![1, 2, 3],
        };
        let bytes = c.encode();
        assert_eq!(Checkpoint::decode(&bytes), Ok(c));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Checkpoint::decode(&bad).is_err(), "bit {bit}");
        }
        for n in 0..bytes.len() {
            assert!(Checkpoint::decode(&bytes[..n]).is_err());
        }
    }

    #[test]
    fn what_was_written_before_there_was_a_high_watermark_is_read() {
        let c = Checkpoint {
            epochs: vec![(2, 7)],
            state: vec![9; 20],
            ..Checkpoint::empty(5)
        };
        let mut old = c.encode();
        old.truncate(old.len() - 4);
        old.drain(46..54);
        old[4] = 1;
        let crc = crc32c::crc32c(&old);
        old.extend_from_slice(&crc.to_le_bytes());
        assert_eq!(Checkpoint::decode(&old), Ok(c));
    }
}
