//! Histories made by hand: one for each anomaly, and good ones that look suspicious.

use super::{Anomaly, analyse};
use crate::record::History;

#[track_caller]
fn found(text: &str) -> Vec<Anomaly> {
    let history = History::parse(text.lines()).expect("a history");
    let mut kinds: Vec<Anomaly> = analyse(&history).iter().map(|f| f.what).collect();
    kinds.dedup();
    kinds
}

/// Three sends of one process, at 0, 1 and 2 of t/0.
const SENDS: &str = "
    10 a 1 invoke send s:t/0:x
    11 a 1 ok send s:t/0:x@0
    12 a 2 invoke send s:t/0:y
    13 a 2 ok send s:t/0:y@1
    14 a 3 invoke send s:t/0:z
    15 a 3 ok send s:t/0:z@2
";

#[track_caller]
fn found_after(sends: &str, rest: &str) -> Vec<Anomaly> {
    found(&format!("{sends}\n{rest}"))
}

#[test]
fn a_good_history_has_nothing() {
    let rest = "
        20 b 0 ok owns t/0
        20 b 1 invoke poll
        21 b 1 ok poll r:t/0:x@0 r:t/0:y@1
        22 b 2 invoke poll
        23 b 2 ok poll r:t/0:z@2
        # a note
        30 end 1 invoke poll
        31 end 1 ok poll r:t/0:x@0 r:t/0:y@1 r:t/0:z@2
        32 end 0 ok final t/0@3
    ";
    assert_eq!(found_after(SENDS, rest), []);
}

#[test]
fn a_value_that_nobody_wrote() {
    let rest = "
        20 b 1 invoke poll
        21 b 1 ok poll r:t/0:x@0 r:t/0:y@1 r:t/0:z@2 r:t/0:w@3";
    assert_eq!(found_after(SENDS, rest), [Anomaly::Unwritten]);
    let elsewhere = "
        1 a 1 invoke send s:t/0:x
        2 b 1 invoke poll
        3 b 1 ok poll r:t/1:x@0";
    assert_eq!(found(elsewhere), [Anomaly::Unwritten]);
}

#[test]
fn two_values_at_one_offset() {
    let text = "
        1 a 1 invoke send s:t/0:x
        2 b 1 invoke send s:t/0:y
        3 a 1 ok send s:t/0:x@0
        4 b 1 ok send s:t/0:y@1
        5 c 1 invoke poll
        6 c 1 ok poll r:t/0:x@0 r:t/0:y@1
        7 d 1 invoke poll
        8 d 1 ok poll r:t/0:y@0";
    let want = [Anomaly::InconsistentOffset, Anomaly::Duplicate];
    assert_eq!(found(text), want);
}

#[test]
fn a_value_at_two_offsets() {
    let text = "
        1 a 1 invoke send s:t/0:x
        2 a 1 ok send s:t/0:x@0
        5 c 1 invoke poll
        6 c 1 ok poll r:t/0:x@0 r:t/0:x@1";
    assert_eq!(found(text), [Anomaly::Duplicate]);
}

#[test]
fn what_failed_is_read() {
    let text = "
        1 a 1 invoke txn s:t/0:x
        5 c 1 invoke poll
        6 c 1 ok poll r:t/0:x@0
        9 a 1 fail txn s:t/0:x@0";
    assert_eq!(found(text), [Anomaly::AbortedRead]);
    let unknown = text.replace("fail", "info");
    assert_eq!(found(&unknown), []);
}

#[test]
fn what_was_not_to_be_committed_yet_is_read() {
    let text = "
        1 a 1 invoke txn s:t/0:x
        5 c 1 invoke poll
        6 c 1 ok poll r:t/0:x@0
        9 a 1 ok txn s:t/0:x@0 c:7";
    assert_eq!(found(text), [Anomaly::DirtyRead]);
    assert_eq!(found(&text.replace("c:7", "c:6")), []);
    let own = "
        1 a 1 invoke txn s:t/0:x
        9 a 1 ok txn s:t/0:x@0 r:t/0:x@0 c:3";
    assert_eq!(found(own), [Anomaly::DirtyRead]);
}

#[test]
fn an_acknowledged_value_is_gone() {
    let rest = "
        20 b 1 invoke poll
        21 b 1 ok poll r:t/0:x@0 r:t/0:z@2";
    // Without a final reading it is a skip of that reader as well.
    let want = [Anomaly::Lost, Anomaly::SkipInside];
    assert_eq!(found_after(SENDS, rest), want);
    let last = "
        20 end 1 invoke poll
        21 end 1 ok poll r:t/0:x@0 r:t/0:y@1
        22 end 0 ok final t/0@3";
    assert_eq!(found_after(SENDS, last), [Anomaly::Lost]);
}

#[test]
fn nobody_gets_as_far_as_an_acknowledged_value() {
    let rest = "
        20 b 1 invoke poll
        21 b 1 ok poll r:t/0:x@0 r:t/0:y@1";
    assert_eq!(found_after(SENDS, rest), [Anomaly::Unseen]);
    let last = format!("{rest}\n 22 b 0 ok final t/0@2");
    assert_eq!(found_after(SENDS, &last), [Anomaly::Unseen]);
}

#[test]
fn what_was_seen_is_gone() {
    let text = "
        1 a 1 invoke send s:t/0:x
        2 a 1 info send s:t/0:x
        5 c 1 invoke poll
        6 c 1 ok poll r:t/0:x@0
        7 end 0 ok final t/0@0";
    assert_eq!(found(text), [Anomaly::Vanished]);
}

#[test]
fn polls_pass_over_records() {
    let all = "
        20 end 1 invoke poll
        21 end 1 ok poll r:t/0:x@0 r:t/0:y@1 r:t/0:z@2
        22 end 0 ok final t/0@3
        30 b 1 invoke poll";
    let inside = format!("{all}\n 31 b 1 ok poll r:t/0:x@0 r:t/0:z@2");
    assert_eq!(found_after(SENDS, &inside), [Anomaly::SkipInside]);
    let polls = |between: &str| {
        let second = "33 b 2 invoke poll\n 34 b 2 ok poll r:t/0:z@2";
        format!("{all}\n 31 b 1 ok poll r:t/0:x@0\n {between}\n {second}")
    };
    assert_eq!(found_after(SENDS, &polls("")), [Anomaly::Skip]);
    let kept = polls("32 b 0 ok owns t/0 t/1");
    assert_eq!(found_after(SENDS, &kept), [Anomaly::Skip]);
    let lost = polls("32 b 0 ok owns t/1\n 32 b 0 ok owns t/0");
    assert_eq!(found_after(SENDS, &lost), []);
    assert_eq!(found_after(SENDS, &polls("32 b 0 ok rewind")), []);
}

#[test]
fn gaps_where_nothing_is_to_be_seen_are_no_skips() {
    let text = "
        1 a 1 invoke send s:t/0:x
        2 a 1 ok send s:t/0:x@0
        3 b 1 invoke txn s:t/0:y
        4 b 1 fail txn s:t/0:y@1
        5 a 2 invoke send s:t/0:z
        6 a 2 ok send s:t/0:z@3
        7 c 1 invoke poll
        8 c 1 ok poll r:t/0:x@0 r:t/0:z@3";
    assert_eq!(found(text), []);
}

#[test]
fn polls_go_back() {
    let polls = |first: &str, second: &str| {
        let polls = format!("20 b 1 invoke poll\n 21 b 1 ok poll {first}");
        let polls = format!("{polls}\n 22 b 2 invoke poll\n 23 b 2 ok poll {second}");
        found_after(SENDS, &polls)
    };
    let (x, y, z) = ("r:t/0:x@0", "r:t/0:y@1", "r:t/0:z@2");
    let all = format!("{x} {y} {z}");
    assert_eq!(polls(&all, y), [Anomaly::Back]);
    assert_eq!(polls(&all, z), [Anomaly::Back]);
    assert_eq!(polls(&format!("{x} {y} {x} {y}"), z), [Anomaly::BackInside]);
    assert_eq!(polls(&all, ""), []);
}

#[test]
fn sends_go_back() {
    let read = "
        20 c 1 invoke poll
        21 c 1 ok poll r:t/0:y@0 r:t/0:x@1";
    let text = "
        1 a 1 invoke send s:t/0:x
        2 a 2 invoke send s:t/0:y
        3 a 1 ok send s:t/0:x@1
        4 a 2 ok send s:t/0:y@0";
    assert_eq!(found_after(text, read), [Anomaly::SendBack]);
    let inside = "
        1 a 1 invoke txn s:t/0:x s:t/0:y
        4 a 1 ok txn s:t/0:x@1 s:t/0:y@0 c:2";
    assert_eq!(found_after(inside, read), [Anomaly::SendBackInside]);
    let in_time = "
        1 a 1 invoke send s:t/0:x
        2 a 1 ok send s:t/0:x@1
        3 b 1 invoke send s:t/0:y
        4 b 1 ok send s:t/0:y@0";
    assert_eq!(found_after(in_time, read), [Anomaly::SendBackInTime]);
    let at_once = in_time.replace("2 a 1 ok", "3 a 1 ok");
    assert_eq!(found_after(&at_once, read), []);
}

#[test]
fn a_part_of_a_transaction_is_there() {
    let text = |fate: &str| {
        format!(
            "
            1 a 1 invoke txn s:t/0:x s:t/1:y
            4 a 1 {fate} txn s:t/0:x s:t/1:y c:2
            5 end 1 invoke poll
            6 end 1 ok poll r:t/0:x@0
            7 end 0 ok final t/0@2 t/1@2"
        )
    };
    assert_eq!(found(&text("info")), [Anomaly::Torn]);
    assert_eq!(found(&text("ok")), [Anomaly::Lost, Anomaly::Torn]);
    let whole = text("info").replace("x@0", "x@0 r:t/1:y@0");
    assert_eq!(found(&whole), []);
    let none = text("info").replace("r:t/0:x@0", "");
    assert_eq!(found(&none), []);
}

#[test]
fn records_are_moved_twice_or_never() {
    let text = |moved: &str| {
        format!(
            "{SENDS}
            16 m 0 ok moves t u
            20 m 1 invoke txn s:u/0:x~1 s:u/0:y~2
            21 m 1 ok txn s:u/0:x~1@0 s:u/0:y~2@1
            22 m 2 invoke txn s:u/0:y~3 s:u/0:z~4
            23 m 2 info txn s:u/0:y~3 s:u/0:z~4
            30 end 1 invoke poll
            31 end 1 ok poll r:t/0:x@0 r:t/0:y@1 r:t/0:z@2 r:u/0:x~1@0 r:u/0:y~2@1 {moved}
            32 end 0 ok final t/0@3 u/0@9"
        )
    };
    assert_eq!(found(&text("")), [Anomaly::Unmoved]);
    let twice = text("r:u/0:y~3@3 r:u/0:z~4@4");
    assert_eq!(found(&twice), [Anomaly::MovedTwice]);
}

#[test]
fn a_group_passes_over_a_record() {
    let text = |more: &str| {
        format!(
            "{SENDS}
            16 m 0 ok group g t
            16 n 0 ok group g t
            20 m 1 invoke poll
            21 m 1 ok poll r:t/0:x@0
            22 n 1 invoke poll
            23 n 1 ok poll {more} r:t/0:z@2
            30 end 1 invoke poll
            31 end 1 ok poll r:t/0:x@0 r:t/0:y@1 r:t/0:z@2
            32 end 0 ok final t/0@3"
        )
    };
    assert_eq!(found(&text("")), [Anomaly::GroupSkip]);
    assert_eq!(found(&text("r:t/0:y@1")), []);
}

#[test]
fn what_a_transaction_commits_for_a_group_stays() {
    let text = |fate: &str, began: u64, committed: u64| {
        format!(
            "
            10 a 1 invoke send s:t/0:x
            11 a 1 ok send s:t/0:x@0
            16 m 0 ok group g t
            16 n 0 ok group g t
            20 m 1 invoke txn
            23 m 1 {fate} txn r:t/0:x@0
            27 n 0 ok committed c:{began} t/0@{committed}"
        )
    };
    assert_eq!(found(&text("ok", 25, 0)), [Anomaly::CommitLost]);
    for (fate, began, committed) in [
        ("ok", 25, 1),
        ("ok", 22, 0),
        ("fail", 25, 0),
        ("info", 25, 0),
    ] {
        assert_eq!(found(&text(fate, began, committed)), []);
    }
}

#[test]
fn what_has_no_form_is_refused() {
    for line in [
        "x",
        "1 a 1 ok send s:t/0:x",
        "1 a 1 ok dance",
        "1 a 1 invoke send x",
        "1 a 1 invoke poll r:t/0:x",
        "1 a 0 ok final t/0",
        "1 a 1 invoke send s:t/0:x\n2 a 1 invoke send s:t/0:y",
    ] {
        assert!(History::parse(line.lines()).is_err(), "{line}");
    }
}
