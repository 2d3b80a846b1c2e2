//! Walks over the batches of one segment file, from the front, with bounded memory.
//!
//! A segment that is being written ends in zeros that were allocated ahead; that is its tail. After
//! damage that hides where the next batch begins, the walk ends.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use streamd_log::batch::{BatchHeader, HEADER, crc_matches};

use super::files::cannot;
use crate::failure::Result;

/// The file is read in pieces of so many bytes.
const CHUNK: usize = 1 << 20;
/// No broker takes a larger batch, so a length beyond it is damage.
const BATCH_MAX: usize = 256 << 20;

/// Something in a segment file.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'s> {
    /// A whole batch.
    Batch {
        /// Its header.
        header: BatchHeader,
        /// All its bytes.
        bytes: &'s [u8],
        /// Whether the CRC is that of the bytes.
        crc_ok: bool,
    },
    /// Zeros, to the end of the file.
    Tail(u64),
    /// Bytes that are no batch; the walk ends here.
    Damage {
        /// What is wrong.
        what: String,
        /// Bytes from here to the end of the file.
        left: u64,
    },
}

/// A walk over a file.
pub struct Scan<R = File> {
    input: R,
    /// Bytes of the file from `at` on.
    window: Vec<u8>,
    /// How many bytes of the window belong to what was found last.
    taken: usize,
    at: u64,
    ended: bool,
}

impl Scan {
    /// Opens a file.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> Result<Scan> {
        Ok(Scan::new(File::open(path).map_err(|e| cannot(path, &e))?))
    }
}

impl<R: Read> Scan<R> {
    fn new(input: R) -> Scan<R> {
        Scan {
            input,
            window: Vec::new(),
            taken: 0,
            at: 0,
            ended: false,
        }
    }

    /// Sees to it that the window holds `n` bytes, if the file has them.
    fn fill(&mut self, n: usize) -> std::io::Result<()> {
        let have = self.window.len();
        if have < n {
            let more = (n - have).max(CHUNK) as u64;
            (&mut self.input).take(more).read_to_end(&mut self.window)?;
        }
        Ok(())
    }

    /// The next thing and its position in the file; `None` at the end.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn next(&mut self) -> std::io::Result<Option<(u64, Found<'_>)>> {
        // Moved forward only here, so that what was found can be borrowed from the window.
        self.at += self.taken as u64;
        self.window.drain(..self.taken);
        self.taken = 0;
        self.fill(HEADER)?;
        if self.ended || self.window.is_empty() {
            return Ok(None);
        }
        let at = self.at;
        let head = &self.window[..HEADER.min(self.window.len())];
        if head.iter().all(|&b| b == 0) {
            return self.tail().map(|found| Some((self.at, found)));
        }
        let header = match BatchHeader::parse(&self.window) {
            Ok(header) if header.size <= BATCH_MAX => header,
            Ok(header) => {
                let what = format!(
                    "a batch length of {} bytes, more than any broker takes ({BATCH_MAX})",
                    header.size
                );
                return self.damage(what).map(Some);
            }
            Err(error) => return self.damage(error.text).map(Some),
        };
        self.fill(header.size)?;
        if self.window.len() < header.size {
            let have = self.window.len();
            let what = format!(
                "a batch of {} bytes, of which the file has {have}",
                header.size
            );
            return self.damage(what).map(Some);
        }
        self.taken = header.size;
        let bytes = &self.window[..header.size];
        Ok(Some((
            at,
            Found::Batch {
                header,
                bytes,
                crc_ok: crc_matches(bytes),
            },
        )))
    }

    fn damage(&mut self, what: String) -> std::io::Result<(u64, Found<'static>)> {
        self.ended = true;
        let at = self.at;
        let mut left = self.window.len() as u64;
        self.window.clear();
        left += std::io::copy(&mut self.input, &mut std::io::sink())?;
        Ok((at, Found::Damage { what, left }))
    }

    fn tail(&mut self) -> std::io::Result<Found<'static>> {
        self.ended = true;
        let begin = self.at;
        let mut zeros = 0;
        loop {
            if let Some(first) = self.window.iter().position(|&b| b != 0) {
                zeros += first as u64;
                self.window.drain(..first);
                self.at = begin + zeros;
                let what = format!(
                    "bytes that are not zero behind {zeros} zeros (from byte {begin} on): a write \
                     that was cut off, which the broker sets aside when it starts, or a block that \
                     was lost"
                );
                return self.damage(what).map(|(_, found)| found);
            }
            zeros += self.window.len() as u64;
            self.window.clear();
            self.fill(1)?;
            if self.window.is_empty() {
                return Ok(Found::Tail(zeros));
            }
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use streamd_log::batch::{NewRecord, Writer, build, stamp};

    /// A batch of `count` records that begins at `base`.
    pub fn batch(base: i64, count: usize) -> Vec<u8> {
        let record = NewRecord {
            timestamp: 5,
            key: Some(b"key"),
            value: Some(b"value"),
        };
        let mut bytes = build(&vec![record; count], Writer::default());
        stamp(&mut bytes, base, 1);
        bytes
    }

    /// What is found, in words.
    fn walk(bytes: &[u8]) -> Vec<(u64, String)> {
        let mut scan = Scan::new(bytes);
        let mut found = Vec::new();
        while let Some((at, item)) = scan.next().expect("reads") {
            found.push((
                at,
                match item {
                    Found::Batch { header, crc_ok, .. } => {
                        format!(
                            "{} to {} {crc_ok}",
                            header.base_offset,
                            header.last_offset()
                        )
                    }
                    Found::Tail(n) => format!("tail {n}"),
                    Found::Damage { what, left } => format!("{what}; {left}"),
                },
            ));
        }
        found
    }

    fn say(at: usize, what: &str) -> (u64, String) {
        (at as u64, what.to_owned())
    }

    #[test]
    fn batches_and_tail() {
        assert!(walk(&[]).is_empty());
        let first = batch(0, 3);
        let mut file = first.clone();
        file.extend_from_slice(&batch(3, 1));
        let end = file.len();
        assert_eq!(
            walk(&file),
            [say(0, "0 to 2 true"), say(first.len(), "3 to 3 true")]
        );
        for zeros in [1, HEADER - 1, HEADER, 3 * CHUNK + 1] {
            file.truncate(end);
            file.resize(end + zeros, 0);
            assert_eq!(walk(&file)[2..], [say(end, &format!("tail {zeros}"))]);
        }
    }

    #[test]
    fn a_batch_larger_than_the_window() {
        let record = NewRecord {
            value: Some(&vec![7; 3 * CHUNK]),
            ..Default::default()
        };
        let mut file = build(&[record], Writer::default());
        let end = file.len();
        file.extend_from_slice(&batch(1, 1));
        assert_eq!(
            walk(&file),
            [say(0, "0 to 0 true"), say(end, "1 to 1 true")]
        );
    }

    #[test]
    fn a_wrong_crc_does_not_end_the_walk() {
        let first = batch(0, 1);
        let mut file = first.clone();
        file.extend_from_slice(&batch(1, 1));
        file[first.len() - 3] ^= 1;
        assert_eq!(
            walk(&file),
            [say(0, "0 to 0 false"), say(first.len(), "1 to 1 true")]
        );
    }

    #[test]
    fn what_is_no_batch_ends_it() {
        let first = batch(0, 1);
        let n = first.len();
        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut file = [first.clone(), batch(1, 1)].concat();
            change(&mut file);
            walk(&file)[1].clone()
        };
        let (at, what) = with(&|f| f[n + 16] = 1);
        assert!(at == n as u64 && what.contains("magic) 1"), "{what}");
        let (_, what) = with(&|f| f.truncate(2 * n - 1));
        assert_eq!(
            what,
            format!(
                "a batch of {n} bytes, of which the file has {}; {}",
                n - 1,
                n - 1
            )
        );
        let (_, what) = with(&|f| f.truncate(n + 20));
        assert!(
            what.contains("20 bytes, shorter than a record batch header"),
            "{what}"
        );
        let (_, what) = with(&|f| f[n + 8] = 0x7f);
        assert!(what.contains("more than any broker takes"), "{what}");
        let (_, what) = with(&|f| f[n + 8..n + 12].fill(0));
        assert!(what.contains("batch length 0"), "{what}");
    }

    #[test]
    fn something_behind_the_zeros_is_damage() {
        let mut file = batch(0, 1);
        let end = file.len();
        file.resize(end + 5000, 0);
        file.extend_from_slice(&batch(1, 1));
        let found = walk(&file);
        // The base offset's seven leading bytes are zeros too.
        assert_eq!(found[1].0, (end + 5007) as u64);
        assert!(found[1].1.contains("behind 5007 zeros"), "{}", found[1].1);
    }
}
