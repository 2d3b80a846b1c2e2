//! What is to be compacted, and how segments are put together. Functions of what is known of the
//! segments, the settings and the time: no I/O.

use std::ops::Range;

use streamd_model::Offset;

/// What a topic's settings say about compaction.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// `delete.retention.ms`.
    pub delete_retention_ms: i64,
    /// `min.compaction.lag.ms`.
    pub min_lag_ms: i64,
    /// `max.compaction.lag.ms`.
    pub max_lag_ms: i64,
    /// `min.cleanable.dirty.ratio`.
    pub min_dirty_ratio: f64,
    /// `segment.bytes`.
    pub segment_bytes: u64,
    /// `segment.index.bytes`.
    pub index_bytes: u64,
}

impl Rules {
    /// Whether the times of segments matter.
    pub fn need_times(&self) -> bool {
        self.min_lag_ms > 0 || self.max_lag_ms < i64::MAX
    }
}

/// A segment that could be compacted: rolled, and durable as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its first offset.
    pub base: Offset,
    /// The offset after its last one.
    pub next: Offset,
    /// Its size.
    pub bytes: u64,
    /// No index of it takes more than this.
    pub index_bytes: u64,
    /// The greatest timestamp of its first batch, ms; below 0: unknown.
    pub first_ms: i64,
    /// The greatest timestamp of all, ms; below 0: unknown.
    pub max_ms: i64,
}

/// Something to compact.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Todo {
    /// Everything before was compacted once.
    pub first_dirty: Offset,
    /// Everything from here on stays as it is.
    pub end: Offset,
    /// Bytes between the two over all bytes before the end.
    pub ratio: f64,
}

/// Whether, and how far, a log is to be compacted at `now_ms`: `pieces` from its front on, dense;
/// compacted before `cleaned`; nothing from `bound` on is decided yet.
pub fn assess(
    pieces: &[Piece],
    (cleaned, bound): (Offset, Offset),
    rules: &Rules,
    now_ms: i64,
) -> Option<Todo> {
    let front = pieces.first()?.base;
    let first_dirty = if cleaned < front { front } else { cleaned };
    let mut todo = Todo {
        first_dirty,
        end: first_dirty,
        ratio: 0.0,
    };
    let (mut clean, mut dirty, mut overdue) = (0u64, 0u64, false);
    for piece in pieces {
        if piece.next <= first_dirty {
            clean += piece.bytes;
            continue;
        }
        let young = rules.min_lag_ms > 0 && piece.max_ms > now_ms.saturating_sub(rules.min_lag_ms);
        if piece.next > bound || young {
            break;
        }
        let lag = rules.max_lag_ms.max(rules.min_lag_ms);
        overdue |= piece.first_ms > 0 && piece.first_ms < now_ms.saturating_sub(lag);
        dirty += piece.bytes;
        todo.end = piece.next;
    }
    if dirty == 0 {
        return None;
    }
    todo.ratio = dirty as f64 / (clean + dirty) as f64;
    (overdue || todo.ratio > rules.min_dirty_ratio).then_some(todo)
}

/// Which neighbours of `pieces` become one segment: together they are no larger than a segment
/// may be, in bytes, in offsets and in its index.
pub fn group(pieces: &[Piece], rules: &Rules) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let (mut bytes, mut index) = (0, 0);
    for (at, piece) in pieces.iter().enumerate() {
        let joins = groups.last().is_some_and(|g| {
            let base = pieces[g.start].base;
            bytes + piece.bytes <= rules.segment_bytes
                && index + piece.index_bytes <= rules.index_bytes
                && piece.next - base <= i64::from(i32::MAX)
        });
        match groups.last_mut().filter(|_| joins) {
            Some(group) => {
                group.end = at + 1;
                bytes += piece.bytes;
                index += piece.index_bytes;
            }
            None => {
                groups.push(at..at + 1);
                (bytes, index) = (piece.bytes, piece.index_bytes);
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules {
            delete_retention_ms: 1000,
            min_lag_ms: 0,
            max_lag_ms: i64::MAX,
            min_dirty_ratio: 0.5,
            segment_bytes: 100,
            index_bytes: 1000,
        }
    }

    /// Segments of ten offsets each, of these sizes, one second apart.
    fn pieces(sizes: &[u64]) -> Vec<Piece> {
        let piece = |(i, &bytes): (usize, &u64)| Piece {
            base: i as i64 * 10,
            next: i as i64 * 10 + 10,
            bytes,
            index_bytes: 8,
            first_ms: i as i64 * 1000 + 1,
            max_ms: i as i64 * 1000 + 900,
        };
        sizes.iter().enumerate().map(piece).collect()
    }

    #[test]
    fn the_dirty_part_must_be_large_enough() {
        let p = pieces(&[50, 50, 40, 40]);
        let at = |cleaned| assess(&p, (cleaned, 40), &rules(), 0).map(|t| (t.first_dirty, t.end));
        assert_eq!(at(0), Some((0, 40)));
        assert_eq!(at(10), Some((10, 40)));
        assert_eq!(at(20), None, "80 of 180 bytes are not more than half");
        assert_eq!(at(40), None);
        assert_eq!(
            assess(&p[2..], (0, 40), &rules(), 0).unwrap().first_dirty,
            20
        );
        assert_eq!(assess(&[], (0, 0), &rules(), 0), None);
    }

    #[test]
    fn what_is_undecided_or_young_stays() {
        let p = pieces(&[50, 50, 50]);
        let end = |bound, min_lag_ms, now| {
            let r = Rules {
                min_lag_ms,
                ..rules()
            };
            assess(&p, (0, bound), &r, now).map(|t| t.end)
        };
        assert_eq!(end(29, 0, 0), Some(20), "a segment goes as a whole");
        assert_eq!(end(30, 0, 0), Some(30));
        assert_eq!(end(30, 500, 2400), Some(20));
        assert_eq!(end(30, 500, 2399), Some(10));
        assert_eq!(end(30, 500, 1399), None);
    }

    #[test]
    fn what_is_overdue_goes_whatever_the_ratio() {
        let p = pieces(&[1000, 1, 1]);
        let at = |max_lag_ms, now| {
            let r = Rules {
                max_lag_ms,
                ..rules()
            };
            assess(&p, (10, 30), &r, now).is_some()
        };
        assert!(!at(i64::MAX, i64::MAX));
        assert!(!at(5000, 6001));
        assert!(
            at(5000, 6002),
            "the first batch of the second segment is of 1001"
        );
    }

    #[test]
    fn neighbours_are_joined_up_to_every_limit() {
        let sizes = [40, 40, 40, 150, 10, 10];
        assert_eq!(group(&pieces(&sizes), &rules()), [0..2, 2..3, 3..4, 4..6]);
        let small = Rules {
            index_bytes: 8,
            ..rules()
        };
        assert_eq!(group(&pieces(&[1, 1]), &small), [0..1, 1..2]);
        let mut far = pieces(&[1, 1]);
        far[1].next = i64::from(i32::MAX) + 1;
        assert_eq!(group(&far, &rules()), [0..1, 1..2]);
    }
}
