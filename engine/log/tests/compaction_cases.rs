//! What compaction makes of single batches: Kafka's rules one by one.

use std::collections::BTreeMap;

use streamd_log::batch::{NewRecord, Writer, build, crc_matches, restamp_time, stamp};
use streamd_log::compact::filter::{
    Aborted, Fate, Judge, Learn, Rewrite, Standing, Survey, emptied, standing,
};
use streamd_log::compact::map::OffsetMap;
use streamd_log::compact::walk::{Feed, Sink, Walk};
use streamd_log::record_view::BatchView;
use streamd_log::{BatchError, BatchHeader};

const KEEP: i64 = 1000;

/// Pushes the records of a batch through, a byte at a time.
fn walk<S: Sink>(batch: &[u8], keys: bool, sink: &mut S) -> Result<(), BatchError> {
    let header = BatchHeader::parse(batch)?;
    let mut feed = Feed::new(batch, &header)?;
    let mut walk = Walk::new(header.count, keys);
    loop {
        let piece = feed.next_piece()?;
        if piece.is_empty() {
            return walk.finish();
        }
        for byte in piece {
            walk.push(std::slice::from_ref(byte), sink)?;
        }
    }
}

/// A batch at an offset of keys and values, of times 10, 11, ...
fn batch(base: i64, records: &[(Option<&str>, Option<&str>)], writer: Writer) -> Vec<u8> {
    let new: Vec<_> = records
        .iter()
        .enumerate()
        .map(|(i, (key, value))| NewRecord {
            timestamp: 10 + i as i64,
            key: key.map(str::as_bytes),
            value: value.map(str::as_bytes),
        })
        .collect();
    let mut bytes = build(&new, writer);
    stamp(&mut bytes, base, 3);
    bytes
}

fn with_attributes(mut batch: Vec<u8>, bits: u8) -> Vec<u8> {
    batch[22] |= bits;
    let h = BatchHeader::parse(&batch).unwrap();
    restamp_time(&mut batch, h.max_timestamp, h.is_log_append_time());
    batch
}

/// A judge that knows these batches, from offset `from` to `end`.
fn judge(batches: &[&[u8]], (from, end): (i64, i64), now_ms: i64) -> Judge {
    let mut map = OffsetMap::new(1 << 20, 100, [1, 2]);
    for batch in batches {
        let header = BatchHeader::parse(batch).unwrap();
        if !header.is_control() && header.base_offset < end {
            let mut learn = Learn::new(&mut map, &header, from);
            walk(batch, true, &mut learn).unwrap();
            assert_eq!(learn.full_at, None);
        }
    }
    Judge {
        map,
        end,
        now_ms,
        delete_retention_ms: KEEP,
        producers: BTreeMap::new(),
    }
}

fn fate(judge: &Judge, batch: &[u8], last: bool) -> Fate {
    let header = BatchHeader::parse(batch).unwrap();
    let mut survey = Survey::new(judge, &header);
    walk(batch, true, &mut survey).unwrap();
    survey.fate(last)
}

/// The batch that is left of one.
fn rewritten(judge: &Judge, batch: &[u8]) -> Vec<u8> {
    let header = BatchHeader::parse(batch).unwrap();
    let Fate::Rewrite(plan) = fate(judge, batch, false) else {
        panic!("it is written again: {:?}", fate(judge, batch, false));
    };
    let mut rewrite = Rewrite::new(&plan, batch, &header).unwrap();
    walk(batch, false, &mut rewrite).unwrap();
    let new = rewrite.finish().unwrap();
    assert!(crc_matches(&new));
    new
}

fn records(batch: &[u8]) -> Vec<(i64, i64)> {
    let view = BatchView::new(batch, 1 << 20).unwrap();
    let one = |r: Result<_, BatchError>| {
        let r: streamd_log::record_view::RecordView<'_> = r.unwrap();
        (r.offset, r.timestamp)
    };
    view.records().map(one).collect()
}

const PLAIN: Writer = Writer {
    id: -1,
    epoch: -1,
    sequence: -1,
};

#[test]
fn the_last_of_each_key_stays_with_its_offset_and_time() {
    let old = batch(0, &[(Some("a"), Some("1")), (Some("b"), Some("2"))], PLAIN);
    let new = batch(2, &[(Some("a"), Some("3"))], PLAIN);
    let j = judge(&[&old, &new], (0, 3), 0);
    let left = rewritten(&j, &old);
    assert_eq!(records(&left), [(1, 11)]);
    let h = BatchHeader::parse(&left).unwrap();
    assert_eq!((h.base_offset, h.last_offset(), h.count), (0, 1, 1));
    assert_eq!((h.max_timestamp, h.epoch), (11, 3));
    assert_eq!(fate(&j, &new, false), Fate::Keep);
}

#[test]
fn what_the_map_does_not_cover_stays() {
    let old = batch(0, &[(Some("a"), Some("1")), (Some("a"), None)], PLAIN);
    for end in [0, 1] {
        let j = judge(&[], (0, end), i64::MAX);
        assert_eq!(fate(&j, &old, false), Fate::Keep);
    }
    // The horizon counts from when all that the tombstones delete can go.
    let all = rewritten(&judge(&[], (0, 2), 5), &old);
    assert_eq!(
        BatchHeader::parse(&all).unwrap().delete_horizon(),
        Some(5 + KEEP)
    );
}

#[test]
fn tombstones_get_a_horizon_and_go_after_it() {
    let old = batch(0, &[(Some("a"), Some("1")), (Some("a"), None)], PLAIN);
    let at = |batch: &[u8], now| judge(&[batch], (0, 2), now);
    let first = rewritten(&at(&old, 50), &old);
    let h = BatchHeader::parse(&first).unwrap();
    // KIP-534: bit 6, the base timestamp is the horizon, the records' times are what they were.
    assert_eq!((h.attributes, h.base_timestamp), (0x40, 50 + KEEP));
    assert_eq!(h.delete_horizon(), Some(50 + KEEP));
    assert_eq!(records(&first), [(1, 11)]);
    assert_eq!(h.max_timestamp, 11);
    let before = 50 + KEEP - 1;
    assert_eq!(fate(&at(&first, before), &first, false), Fate::Keep);
    assert_eq!(fate(&at(&first, 50 + KEEP), &first, false), Fate::Drop);
    assert_eq!(fate(&at(&first, 50 + KEEP), &first, true), Fate::Empty);
    // A horizon that is there stays when other records of the batch go.
    let two = batch(0, &[(Some("a"), None), (Some("b"), Some("1"))], PLAIN);
    let first = rewritten(&at(&two, 50), &two);
    let later = batch(2, &[(Some("b"), Some("2"))], PLAIN);
    let second = rewritten(&judge(&[&first, &later], (0, 3), 60), &first);
    let h = BatchHeader::parse(&second).unwrap();
    assert_eq!((h.delete_horizon(), h.count), (Some(50 + KEEP), 1));
    assert_eq!(records(&second), [(0, 10)]);
}

#[test]
fn a_batch_that_is_needed_stays_empty() {
    let writer = Writer {
        id: 9,
        epoch: 1,
        sequence: 70,
    };
    let old = batch(0, &[(Some("a"), Some("1")), (Some("a"), Some("2"))], writer);
    let new = batch(2, &[(Some("a"), Some("3"))], PLAIN);
    let mut j = judge(&[&old, &new], (0, 3), 0);
    assert_eq!(fate(&j, &old, false), Fate::Drop);
    assert_eq!(fate(&j, &old, true), Fate::Empty);
    j.producers.insert(9, 1);
    assert_eq!(fate(&j, &old, false), Fate::Empty);
    j.producers.insert(9, 5);
    assert_eq!(fate(&j, &old, false), Fate::Drop, "it has sent more since");
    j.producers.insert(9, 1);
    let left = emptied(&with_attributes(old.clone(), 0));
    let (h, was) = (
        BatchHeader::parse(&left).unwrap(),
        BatchHeader::parse(&old).unwrap(),
    );
    assert!(crc_matches(&left));
    assert_eq!((h.size, h.count, h.base_timestamp), (61, 0, -1));
    assert_eq!(
        (
            h.base_offset,
            h.last_offset(),
            h.max_timestamp,
            h.base_sequence
        ),
        (0, 1, was.max_timestamp, 70)
    );
    assert_eq!((h.producer_id, h.producer_epoch), (9, 1));
    assert_eq!(fate(&j, &left, false), Fate::Keep, "once is enough");
    j.producers.clear();
    assert_eq!(fate(&j, &left, false), Fate::Drop);
}

#[test]
fn a_record_without_a_key_goes() {
    let old = batch(0, &[(None, Some("1")), (Some(""), Some("2"))], PLAIN);
    let j = judge(&[&old], (0, 2), 0);
    assert_eq!(
        records(&rewritten(&j, &old)),
        [(1, 11)],
        "an empty key is a key"
    );
}

#[test]
fn log_append_time_stays_that_of_the_batch() {
    let mut old = batch(0, &[(Some("a"), Some("1")), (Some("b"), Some("2"))], PLAIN);
    restamp_time(&mut old, 777, true);
    let new = batch(2, &[(Some("b"), Some("3"))], PLAIN);
    let left = rewritten(&judge(&[&old, &new], (0, 3), 0), &old);
    let h = BatchHeader::parse(&left).unwrap();
    assert!(h.is_log_append_time());
    assert_eq!((h.max_timestamp, records(&left)), (777, vec![(0, 777)]));
}

#[test]
fn markers_stay_and_what_was_aborted_does_not_count() {
    let txn = with_attributes(batch(0, &[(Some("a"), Some("1"))], PLAIN), 0x10);
    let marker = with_attributes(batch(1, &[(Some("a"), Some("1"))], PLAIN), 0x30);
    let (t, m) = (
        BatchHeader::parse(&txn).unwrap(),
        BatchHeader::parse(&marker).unwrap(),
    );
    let mut aborted = Aborted::default();
    assert_eq!(standing(&t, &aborted), Standing::Valid);
    aborted.add(-1, 0, 1);
    assert_eq!(standing(&t, &aborted), Standing::Aborted);
    assert_eq!(standing(&m, &aborted), Standing::Marker);
    let later = with_attributes(batch(5, &[(Some("a"), None)], PLAIN), 0x10);
    let later = BatchHeader::parse(&later).unwrap();
    assert_eq!(standing(&later, &aborted), Standing::Valid);
}

#[test]
fn damaged_records_are_an_error_and_no_more() {
    let whole = batch(0, &[(Some("a"), Some("1")), (Some("b"), None)], PLAIN);
    let j = judge(&[], (0, 9), 0);
    for at in 61..whole.len() {
        for bit in 0..8 {
            let mut bad = whole.clone();
            bad[at] ^= 1 << bit;
            let header = BatchHeader::parse(&bad).unwrap();
            let mut survey = Survey::new(&j, &header);
            // It may be sound by chance; it must not panic.
            let _ = walk(&bad, true, &mut survey);
        }
    }
    for keep in 61..whole.len() {
        let header = BatchHeader::parse(&whole).unwrap();
        let mut survey = Survey::new(&j, &header);
        assert!(walk(&whole[..keep], true, &mut survey).is_err());
    }
}
