//! CRC-32C and copying, in pieces of 64 KiB, as batches come.

use std::hint::black_box;
use std::time::Duration;

use super::{Figure, Stopwatch};

/// The check of a batch that just came in (in cache).
pub const CRC: &str = "CRC-32C, 64 KiB pieces in cache";
/// The copy of such a batch into a large buffer.
pub const COPY: &str = "copy, 64 KiB pieces in cache to 64 MiB";

const PIECE: usize = 64 * 1024;
const LARGE: usize = 64 << 20;

pub(super) fn measure(each: Duration, figures: &mut Vec<Figure>) {
    let piece = vec![0x5a_u8; PIECE];
    let mut watch = Stopwatch::start();
    while watch.running(each) {
        watch.time(PIECE, || black_box(crc32c::crc32c(black_box(&piece))));
    }
    figures.push(watch.figure(CRC));

    // Touched once before: the first touch of memory is the kernel's work, not the copy's.
    let mut large = vec![1_u8; LARGE];
    let mut at = 0;
    let mut watch = Stopwatch::start();
    while watch.running(each) {
        watch.time(PIECE, || {
            large[at..at + PIECE].copy_from_slice(black_box(&piece));
        });
        at = (at + PIECE) % LARGE;
    }
    black_box(&large);
    figures.push(watch.figure(COPY));
}
