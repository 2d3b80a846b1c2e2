//! Single steps, each with what must come of it.

use streamd_model::ErrorCode;

use super::*;
use crate::config::StartAt;

const OK: Reply = Reply::Code(ErrorCode::None);

fn got(first: Offset, last: Offset, count: i16) -> Acquired {
    Acquired { first, last, count }
}

fn begun(settings: &[(&str, &str)]) -> Bench {
    let mut bench = Bench::new(settings);
    assert_eq!(
        bench.ask(Ask::Next),
        Reply::Next(Next::Unset(StartAt::Latest))
    );
    assert_eq!(bench.ask(Ask::Begin(0)), OK);
    bench
}

fn code(reply: &Reply) -> ErrorCode {
    match reply {
        Reply::Refused(code, _) | Reply::Code(code) => *code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn two_members_share_a_partition() {
    let mut b = begun(&[]);
    assert_eq!(b.acquire("m", &[(0, 4), (5, 9)], 5), [got(0, 4, 1)]);
    assert_eq!(b.acquire("n", &[(0, 4), (5, 9)], 5), [got(5, 9, 1)]);
    assert_eq!(b.acquire("n", &[(0, 9)], 5), []);
    assert_eq!(
        code(&b.ack("n", 0, 4, Ack::Accept)),
        ErrorCode::InvalidRecordState
    );
    assert_eq!(b.ack("n", 5, 9, Ack::Accept), OK);
    assert_eq!(b.start(), 0);
    assert_eq!(b.ack("m", 0, 4, Ack::Accept), OK);
    assert_eq!(b.start(), 10);
    assert_eq!(
        code(&b.ack("m", 10, 10, Ack::Accept)),
        ErrorCode::InvalidRecordState
    );
    assert_eq!(
        b.ack("m", 0, 4, Ack::Accept),
        OK,
        "what is done with can be said again"
    );
}

#[test]
fn an_accept_is_answered_when_it_is_durable() {
    let mut b = begun(&[]);
    b.acquire("m", &[(0, 0)], 1);
    b.hold = true;
    let batch = AckBatch {
        first: 0,
        last: 0,
        kinds: vec![Ack::Accept],
    };
    let token = b.begin(Ask::Acknowledge("m".into(), vec![batch]));
    assert_eq!(b.answer(token), None);
    b.persist(1);
    assert_eq!(b.answer(token), Some(OK));
}

#[test]
fn a_batch_of_acknowledgements_counts_as_a_whole() {
    let mut b = begun(&[]);
    b.acquire("m", &[(0, 3)], 4);
    let batch = |first, last, kinds: &[Ack]| AckBatch {
        first,
        last,
        kinds: kinds.to_vec(),
    };
    use Ack::{Accept, Gap, Reject, Release};
    let bad = vec![batch(0, 1, &[Accept]), batch(2, 9, &[Accept])];
    let reply = b.ask(Ask::Acknowledge("m".into(), bad));
    assert_eq!(code(&reply), ErrorCode::InvalidRecordState);
    for bad in [
        vec![batch(0, 3, &[Accept, Accept])],
        vec![batch(2, 3, &[Accept]), batch(0, 1, &[Accept])],
        vec![batch(1, 0, &[Accept])],
        vec![batch(0, i64::MAX, &[Accept])],
    ] {
        let reply = b.ask(Ask::Acknowledge("m".into(), bad));
        assert_eq!(code(&reply), ErrorCode::InvalidRequest);
    }
    let good = vec![batch(0, 3, &[Accept, Release, Gap, Reject])];
    assert_eq!(b.ask(Ask::Acknowledge("m".into(), good)), OK);
    assert_eq!(b.start(), 1);
    assert_eq!(b.acquire("n", &[(0, 3)], 4), [got(1, 1, 2)]);
}

#[test]
fn a_lock_ends_by_time_and_is_renewed() {
    let mut b = begun(&[]);
    b.acquire("m", &[(0, 1)], 2);
    b.pass(20_000);
    assert_eq!(b.ack("m", 1, 1, Ack::Renew), OK);
    b.pass(10_000);
    assert_eq!(b.acquire("n", &[(0, 1)], 2), [got(0, 0, 2)]);
    assert_eq!(
        code(&b.ack("m", 0, 0, Ack::Accept)),
        ErrorCode::InvalidRecordState
    );
    assert_eq!(b.ack("m", 1, 1, Ack::Accept), OK);
    let mut b = begun(&[("share.renew.acknowledge.enable", "false")]);
    b.acquire("m", &[(0, 1)], 2);
    assert_eq!(
        code(&b.ack("m", 1, 1, Ack::Renew)),
        ErrorCode::InvalidRequest
    );
}

#[test]
fn what_was_delivered_too_often_is_archived() {
    let mut b = begun(&[("share.delivery.count.limit", "2")]);
    b.acquire("m", &[(0, 1)], 2);
    b.ack("m", 0, 0, Ack::Release);
    b.ack("m", 1, 1, Ack::Accept);
    assert_eq!(b.acquire("m", &[(0, 1)], 2), [got(0, 0, 2)]);
    b.ack("m", 0, 0, Ack::Release);
    assert_eq!(b.acquire("m", &[(0, 1)], 2), []);
    assert_eq!(b.start(), 2);
}

#[test]
fn a_clean_end_of_a_session_takes_the_delivery_back() {
    let mut b = begun(&[]);
    b.acquire("m", &[(0, 1)], 2);
    b.ask(Ask::Release("m".into(), true));
    assert_eq!(b.acquire("m", &[(0, 1)], 2), [got(0, 1, 1)]);
    b.ask(Ask::Release("m".into(), false));
    assert_eq!(b.acquire("m", &[(0, 1)], 2), [got(0, 1, 2)]);
}

#[test]
fn no_more_is_under_way_than_may_be() {
    let mut b = begun(&[("share.partition.max.record.locks", "3")]);
    assert_eq!(b.acquire("m", &[(0, 9)], 10), [got(0, 2, 1)]);
    assert_eq!(b.ask(Ask::Next), Reply::Next(Next::Full));
    let token = b.begin(Ask::Wait(true));
    assert_eq!(b.answer(token), None);
    b.ack("m", 1, 1, Ack::Accept);
    assert_eq!(b.answer(token), Some(OK), "there is room");
    assert_eq!(b.acquire("m", &[(0, 9)], 10), [got(3, 3, 1)]);
    let token = b.begin(Ask::Wait(false));
    b.ack("m", 0, 0, Ack::Release);
    assert_eq!(b.answer(token), Some(OK), "something is available again");
}

#[test]
fn markers_and_aborted_records_are_passed_over() {
    let mut b = begun(&[]);
    let batch = |first, last, skip| ReadBatch { first, last, skip };
    let wanted = Acquire {
        member: "m".into(),
        read: vec![batch(0, 4, true), batch(5, 7, false), batch(8, 8, true)],
        records_max: 100,
        strict: false,
        log_start: 0,
    };
    assert_eq!(
        b.ask(Ask::Acquire(wanted)),
        Reply::Acquired(vec![got(5, 7, 1)])
    );
    assert_eq!(b.start(), 5);
    b.ack("m", 5, 7, Ack::Accept);
    assert_eq!(b.start(), 9);
}

#[test]
fn what_the_log_has_lost_is_done_with() {
    let mut b = begun(&[]);
    b.acquire("m", &[(0, 9)], 10);
    let wanted = Acquire {
        member: "n".into(),
        read: vec![],
        records_max: 100,
        strict: true,
        log_start: 5,
    };
    b.ask(Ask::Acquire(wanted));
    assert_eq!(b.start(), 5);
    assert_eq!(b.ack("m", 3, 6, Ack::Accept), OK);
    assert_eq!(b.start(), 7);
}

#[test]
fn a_strict_member_gets_no_more_than_it_wants() {
    let mut b = begun(&[]);
    let wanted = Acquire {
        member: "m".into(),
        read: vec![ReadBatch {
            first: 0,
            last: 9,
            skip: false,
        }],
        records_max: 3,
        strict: true,
        log_start: 0,
    };
    assert_eq!(
        b.ask(Ask::Acquire(wanted)),
        Reply::Acquired(vec![got(0, 2, 1)])
    );
    assert_eq!(
        b.acquire("n", &[(0, 9)], 1),
        [got(3, 9, 1)],
        "a whole batch"
    );
}

#[test]
fn the_dead_go_to_their_topic_and_are_archived_then() {
    let settings = [
        ("share.delivery.count.limit", "2"),
        ("errors.deadletterqueue.topic.name", "dead"),
    ];
    let mut b = begun(&settings);
    b.acquire("m", &[(0, 1)], 2);
    b.hold = true;
    let batch = AckBatch {
        first: 0,
        last: 0,
        kinds: vec![Ack::Reject],
    };
    b.begin(Ask::Acknowledge("m".into(), vec![batch]));
    assert_eq!(b.orders, [], "it may yet be delivered again");
    b.persist(1);
    b.hold = false;
    assert_eq!((b.orders[0].cause, b.orders[0].count), (Cause::Rejected, 1));
    assert_eq!(b.start(), 0, "it is not there yet");
    // A crash before it is there: the order comes again, and nobody gets the record.
    let keep = b.log.len();
    b.orders.clear();
    b.restart(image(&settings), keep);
    assert_eq!(b.orders.len(), 1);
    assert_eq!(b.acquire("m", &[(0, 1)], 2), [got(1, 1, 1)]);
    b.ask(Ask::Buried(0, 0));
    assert_eq!(b.start(), 1);
    b.pass(30_000);
    assert_eq!(b.acquire("m", &[(0, 1)], 2), [got(1, 1, 2)]);
    b.pass(30_000);
    assert_eq!(b.orders[1].cause, Cause::TooOften);
}

#[test]
fn a_record_rests_longer_after_each_delivery() {
    let settings = [
        ("share.redelivery.delay.ms", "1000"),
        ("share.redelivery.delay.max.ms", "3000"),
    ];
    let mut b = begun(&settings);
    for (rest, count) in [(1000, 1), (2000, 2), (3000, 3)] {
        assert_eq!(b.acquire("m", &[(0, 0)], 1), [got(0, 0, count)]);
        b.ack("m", 0, 0, Ack::Release);
        let token = b.begin(Ask::Wait(false));
        b.pass(rest - 1);
        assert_eq!(b.acquire("m", &[(0, 0)], 1), [], "it rests");
        assert_eq!(b.answer(token), None);
        b.pass(1);
        assert_eq!(b.answer(token), Some(OK), "it has rested");
    }
}

#[test]
fn an_operator_sets_the_start_and_forgets() {
    let mut b = begun(&[]);
    b.acquire("m", &[(0, 9)], 10);
    assert_eq!(b.ask(Ask::Reset(4)), OK);
    assert_eq!(b.start(), 4);
    assert_eq!(
        code(&b.ack("m", 5, 5, Ack::Accept)),
        ErrorCode::InvalidRecordState
    );
    assert_eq!(code(&b.ask(Ask::Reset(-1))), ErrorCode::InvalidRequest);
    assert_eq!(b.ask(Ask::Forget), OK);
    assert_eq!(b.ask(Ask::Summary), Reply::Summary(None));
    let keep = b.log.len();
    b.restart(image(&[]), keep);
    assert_eq!(b.ask(Ask::Summary), Reply::Summary(None));
}

#[test]
fn a_deleted_topic_takes_its_state_along() {
    let mut b = begun(&[]);
    let mut image = (*image(&[])).clone();
    image.apply(&Command::DeleteTopic { id: TOPIC });
    let effects = b.c.follow(Arc::new(image));
    b.carry(effects);
    assert_eq!(b.ask(Ask::Summary), Reply::Summary(None));
}

#[test]
fn a_lower_limit_ends_what_was_delivered_more_often() {
    let mut b = begun(&[]);
    for _ in 0..3 {
        b.acquire("m", &[(0, 0)], 1);
        b.ack("m", 0, 0, Ack::Release);
    }
    let effects = b.c.follow(image(&[("share.delivery.count.limit", "2")]));
    b.carry(effects);
    assert_eq!(b.acquire("m", &[(0, 0)], 1), []);
    assert_eq!(b.start(), 1);
}

#[test]
fn records_have_kafkas_layout() {
    let value = StateValue {
        snapshot_epoch: 1,
        leader_epoch: 2,
        start: -1,
        complete: 3,
        batches: vec![StateBatch {
            first: 4,
            last: 5,
            state: Delivery::Acknowledged,
            count: 6,
        }],
    };
    let record = ShareRecord::Update(key(), Some(value));
    let mut want = vec![0, 1, 0, 1, b'g'];
    want.extend_from_slice(&TOPIC.0);
    want.extend_from_slice(&[0, 0, 0, 0]);
    assert_eq!(record.key(), want);
    let mut want = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 2];
    want.extend_from_slice(&[255; 8]);
    want.push(2);
    want.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 5, 2, 0, 6, 0]);
    want.extend_from_slice(&[1, 0, 4, 0, 0, 0, 3]);
    let bytes = record.value().expect("a value");
    assert_eq!(bytes, want);
    for cut in 0..bytes.len() {
        let read = ShareRecord::decode(&record.key(), Some(&bytes[..cut]));
        assert!(read.is_err(), "cut at {cut}");
    }
    let read = ShareRecord::decode(&record.key(), Some(&bytes));
    assert_eq!(read, Ok(Some(record)));
}

#[test]
fn a_share_partition_lives_where_kafka_puts_it() {
    // "g:BwcHBwcHBwcHBwcHBwcHBw:0".hashCode() in Java.
    let text = format!("g:{}:0", TOPIC.to_base64());
    assert_eq!(text, "g:BwcHBwcHBwcHBwcHBwcHBw:0");
    let want = crate::group::partition_of(&text, 50);
    assert_eq!(state_partition(&key(), 50), want);
}
