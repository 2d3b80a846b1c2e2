//! One block of LZ4, inflated into a window with room to spare: short copies are of a fixed size
//! and may write beyond what is wanted, which the compiler turns into a load and a store each.
//!
//! A block is a chain of sequences: a token, literals, then where and how long a match is; the
//! last one ends behind its literals. Of what a window held before nothing gets into the output:
//! a match begins at or behind the start of the block.
//! Source: the LZ4 block format.

/// Bytes that a window has beyond the largest block: so far a fixed copy may reach.
pub const SLACK: usize = 64;

/// The largest literals and matches that are copied with a fixed size.
const LITERALS: usize = 32;
const MATCH: usize = 18;
/// The shortest match.
const MATCH_MIN: usize = 4;
/// In a token: the length goes on behind it.
const MORE: usize = 15;

/// Inflates `packed` to the front of `window`, at most `max` bytes: one of the sizes that the frame
/// format knows. How many it came to; `None` if it is no such block.
pub fn inflate(packed: &[u8], window: &mut [u8], max: usize) -> Option<usize> {
    const SMALL: usize = (64 << 10) + SLACK;
    const MEDIUM: usize = (256 << 10) + SLACK;
    const LARGE: usize = (1 << 20) + SLACK;
    const LARGEST: usize = (4 << 20) + SLACK;
    match max + SLACK {
        SMALL => block::<SMALL>(packed, window.first_chunk_mut()?),
        MEDIUM => block::<MEDIUM>(packed, window.first_chunk_mut()?),
        LARGE => block::<LARGE>(packed, window.first_chunk_mut()?),
        LARGEST => block::<LARGEST>(packed, window.first_chunk_mut()?),
        _ => None,
    }
}

/// Where the reading and the writing have got to.
#[derive(Clone, Copy)]
struct At {
    read: usize,
    written: usize,
}

fn block<const LEN: usize>(packed: &[u8], out: &mut [u8; LEN]) -> Option<usize> {
    const { assert!((LEN - SLACK).is_power_of_two()) };
    let mut at = At {
        read: 0,
        written: 0,
    };
    loop {
        short_sequences(packed, out, &mut at);
        if let Some(end) = sequence(packed, out, LEN - SLACK, &mut at)? {
            return Some(end);
        }
    }
}

/// As many sequences as are short and lie well inside, and are not found wrong. What is written
/// may be more than is allowed, by less than a match: [`sequence`] refuses that.
#[inline(always)]
fn short_sequences<const LEN: usize>(packed: &[u8], out: &mut [u8; LEN], at: &mut At) {
    let max = LEN - SLACK;
    // It changes nothing; with it the compiler knows that all copies lie within the array.
    let mask = max - 1;
    while let Some(bytes) = packed
        .get(at.read..)
        .and_then(|rest| rest.first_chunk::<{ 2 + LITERALS + 2 }>())
        && at.written < max
    {
        let token = usize::from(bytes[0]);
        let (mut literals, length) = (token >> 4, (token & MORE) + MATCH_MIN);
        let to = at.written & mask;
        let mut used = 1;
        if literals < MORE {
            out[to..to + 16].copy_from_slice(&bytes[1..17]);
        } else {
            let more = usize::from(bytes[1]);
            if more > LITERALS - MORE {
                return;
            }
            literals += more;
            used = 2;
            out[to..to + LITERALS].copy_from_slice(&bytes[2..2 + LITERALS]);
        }
        let behind = used + literals;
        let offset = usize::from(u16::from_le_bytes([bytes[behind], bytes[behind + 1]]));
        let to = to + literals;
        let overlaps = offset < length;
        if length == MORE + MATCH_MIN || overlaps || offset > to || to > max {
            return;
        }
        let from = (to - offset) & mask;
        let mut copied = [0; MATCH];
        copied.copy_from_slice(&out[from..from + MATCH]);
        out[to..to + MATCH].copy_from_slice(&copied);
        at.read += behind + 2;
        at.written = to + length;
    }
}

/// One sequence of any kind. `None` if it is wrong; if it is the last one, how many bytes the
/// block has come to.
fn sequence(packed: &[u8], out: &mut [u8], max: usize, at: &mut At) -> Option<Option<usize>> {
    let token = usize::from(*packed.get(at.read)?);
    at.read += 1;
    let mut literals = token >> 4;
    if literals == MORE {
        literals += length(packed, &mut at.read)?;
    }
    let room = max.checked_sub(at.written)?.checked_sub(literals)?;
    let bytes = packed.get(at.read..)?.get(..literals)?;
    out[at.written..at.written + literals].copy_from_slice(bytes);
    at.read += literals;
    at.written += literals;
    if at.read == packed.len() {
        return Some(Some(at.written));
    }
    let offset = packed.get(at.read..)?.first_chunk::<2>()?;
    let offset = usize::from(u16::from_le_bytes(*offset));
    at.read += 2;
    let mut wanted = (token & MORE) + MATCH_MIN;
    if wanted == MORE + MATCH_MIN {
        wanted += length(packed, &mut at.read)?;
    }
    if offset == 0 || offset > at.written || wanted > room {
        return None;
    }
    let (from, end) = (at.written - offset, at.written + wanted);
    // A match may reach into itself: then it repeats, and each step has twice as much to copy.
    while at.written < end {
        let step = (at.written - from).min(end - at.written);
        out.copy_within(from..from + step, at.written);
        at.written += step;
    }
    Some(None)
}

/// The rest of a length: bytes that are added up, to the first one that is not 255.
fn length(packed: &[u8], read: &mut usize) -> Option<usize> {
    let mut sum = 0;
    loop {
        let byte = *packed.get(*read)?;
        *read += 1;
        sum += usize::from(byte);
        if byte != 255 {
            return Some(sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX: usize = 64 << 10;

    /// Both ways with a window that holds something: the same verdict, length and bytes.
    fn compare(packed: &[u8], max: usize) -> Option<usize> {
        let mut theirs = vec![0xaa; max];
        let mut ours = vec![0x55; max + SLACK];
        let expected = lz4_flex::block::decompress_into(packed, &mut theirs).ok();
        let found = inflate(packed, &mut ours, max);
        assert_eq!(found, expected, "{packed:x?}");
        let len = found.unwrap_or(0);
        assert!(ours[..len] == theirs[..len], "{packed:x?}");
        found
    }

    /// Text-like: repeats at all distances, some of them long.
    fn plain(seed: u64, len: usize) -> Vec<u8> {
        let mut state = seed | 1;
        let mut next = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) % below
        };
        let mut out: Vec<u8> = Vec::with_capacity(len + 400);
        while out.len() < len {
            if out.is_empty() || next(3) == 0 {
                let fresh = 1 + next(40);
                out.extend((0..fresh).map(|_| next(256) as u8));
            } else {
                let from = out.len() - 1 - next(out.len() as u64) as usize;
                let most = if next(20) == 0 { 400 } else { 24 };
                for i in 0..1 + next(most) as usize {
                    out.push(out[from + i]);
                }
            }
        }
        out.truncate(len);
        out
    }

    #[test]
    fn blocks_of_the_library_come_back() {
        for seed in 0..200u64 {
            let len = match seed % 4 {
                0 => seed as usize,
                1 => MAX - seed as usize % 40,
                2 => MAX,
                _ => 3000,
            };
            let plain = plain(seed, len);
            let packed = lz4_flex::block::compress(&plain);
            assert_eq!(compare(&packed, MAX), Some(len));
            let mut window = vec![0; MAX + SLACK];
            assert_eq!(inflate(&packed, &mut window, MAX), Some(len));
            assert!(window[..len] == plain);
        }
    }

    #[test]
    fn all_block_sizes_are_held_to() {
        for max in [64 << 10, 256 << 10, 1 << 20, 4 << 20] {
            for len in [max - 1, max, max + 1, max + 17, max + 300] {
                for plain in [vec![7; len], plain(5, len)] {
                    let packed = lz4_flex::block::compress(&plain);
                    let expected = (len <= max).then_some(len);
                    assert_eq!(compare(&packed, max), expected, "{len} of {max}");
                }
            }
        }
        assert_eq!(
            inflate(&[0], &mut vec![0; 5000], 4096),
            None,
            "no such size"
        );
        assert_eq!(inflate(&[0], &mut vec![0; MAX], MAX), None, "no room");
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let wrong: [&[u8]; 9] = [
            &[],
            // Literals that are not there; none of their length.
            &[0x50, 1, 2],
            &[0xf0],
            &[0xf0, 255, 255],
            // An offset of 0, beyond the start, cut, and a block that ends behind a match.
            &[0x10, 9, 0, 0, 0x00],
            &[0x10, 9, 2, 0, 0x00],
            &[0x10, 9, 1],
            &[0x10, 9, 1, 0],
            &[0x1f, 9, 1, 0],
        ];
        for packed in wrong {
            assert_eq!(compare(packed, MAX), None, "{packed:x?}");
        }
        assert_eq!(compare(&[0x10, 9, 1, 0, 0x00], MAX), Some(5));
        assert_eq!(compare(&[0x00], MAX), Some(0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn mutated_blocks_get_the_verdict_of_the_library(
            seed in any::<u64>(),
            len in 0..3000usize,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
            is_cut in any::<bool>(),
        ) {
            let mut packed = lz4_flex::block::compress(&plain(seed, len));
            for (at, byte) in changes {
                let at = at.index(packed.len());
                packed[at] = byte;
            }
            if is_cut {
                packed.truncate(cut.index(packed.len()));
            }
            compare(&packed, MAX);
        }

        #[test]
        fn random_blocks_get_the_verdict_of_the_library(
            packed in prop::collection::vec(
                prop_oneof![any::<u8>(), 0..4u8, Just(0x1fu8), Just(0xf1u8)],
                0..200,
            ),
        ) {
            compare(&packed, MAX);
        }
    }
}
