//! What share-partitions are asked and answer, in binary form.

use streamd_model::{ErrorCode, TopicId};

use crate::codec::{Damaged, In, Out};
use crate::config::StartAt;
use crate::share::{
    Ack, AckBatch, Acquire, Acquired, Ask, Key, Next, ReadBatch, Reply, Request, Summary,
};

pub(super) fn put_request(out: &mut Out, request: &Request) {
    out.str(&request.key.group);
    out.raw(&request.key.topic.0);
    out.i32(request.key.partition);
    match &request.ask {
        Ask::Next => out.u8(1),
        Ask::Begin(at) => put_offset(out, 2, *at),
        Ask::Acquire(wanted) => {
            out.u8(3);
            put_acquire(out, wanted);
        }
        Ask::Acknowledge(member, batches) => {
            out.u8(4);
            out.str(member);
            out.count(batches.len());
            for batch in batches {
                out.i64(batch.first);
                out.i64(batch.last);
                out.count(batch.kinds.len());
                batch.kinds.iter().for_each(|k| out.u8(k.code()));
            }
        }
        Ask::Release(member, unseen) => {
            out.u8(5);
            out.str(member);
            out.u8(u8::from(*unseen));
        }
        Ask::Wait(full) => {
            out.u8(6);
            out.u8(u8::from(*full));
        }
        Ask::Summary => out.u8(7),
        Ask::Reset(at) => put_offset(out, 8, *at),
        Ask::Forget => out.u8(9),
        Ask::Buried(first, last) => {
            put_offset(out, 10, *first);
            out.i64(*last);
        }
    }
}

fn put_offset(out: &mut Out, kind: u8, offset: i64) {
    out.u8(kind);
    out.i64(offset);
}

fn put_acquire(out: &mut Out, wanted: &Acquire) {
    out.str(&wanted.member);
    out.count(wanted.read.len());
    for batch in &wanted.read {
        out.i64(batch.first);
        out.i64(batch.last);
        out.u8(u8::from(batch.skip));
    }
    out.i64(wanted.records_max);
    out.u8(u8::from(wanted.strict));
    out.i64(wanted.log_start);
}

pub(super) fn get_request(r: &mut In<'_>) -> Result<Request, Damaged> {
    let key = Key {
        group: r.str("a group")?.into(),
        topic: TopicId(r.array("a topic's id")?),
        partition: r.i32("a partition's index")?,
    };
    let offset = "an offset";
    let ask = match r.u8("a question about a share-partition")? {
        1 => Ask::Next,
        2 => Ask::Begin(r.i64(offset)?),
        3 => Ask::Acquire(get_acquire(r)?),
        4 => {
            let member = r.str("a member")?.into();
            let count = r.count(20, "a number of acknowledgements")?;
            let batches = (0..count).map(|_| get_ack(r));
            Ask::Acknowledge(member, batches.collect::<Result<_, _>>()?)
        }
        5 => Ask::Release(r.str("a member")?.into(), r.flag("how a session ends")?),
        6 => Ask::Wait(r.flag("what is waited for")?),
        7 => Ask::Summary,
        8 => Ask::Reset(r.i64(offset)?),
        9 => Ask::Forget,
        10 => Ask::Buried(r.i64(offset)?, r.i64(offset)?),
        _ => return Err(r.damaged("a question about a share-partition")),
    };
    Ok(Request { key, ask })
}

fn get_acquire(r: &mut In<'_>) -> Result<Acquire, Damaged> {
    let member = r.str("a member")?.into();
    let count = r.count(17, "a number of batches")?;
    let read = (0..count).map(|_| {
        Ok(ReadBatch {
            first: r.i64("an offset")?,
            last: r.i64("an offset")?,
            skip: r.flag("whether a batch is passed over")?,
        })
    });
    let read = read.collect::<Result<_, Damaged>>()?;
    Ok(Acquire {
        member,
        read,
        records_max: r.i64("a number of records")?,
        strict: r.flag("whether a number is strict")?,
        log_start: r.i64("a log's start")?,
    })
}

fn get_ack(r: &mut In<'_>) -> Result<AckBatch, Damaged> {
    let (first, last) = (r.i64("an offset")?, r.i64("an offset")?);
    let codes = r.bytes("acknowledgements")?.iter();
    let kinds = codes.map(|code| i8::try_from(*code).ok().and_then(Ack::from_code));
    let kinds = kinds.collect::<Option<_>>();
    let kinds = kinds.ok_or(r.damaged("an acknowledgement"))?;
    Ok(AckBatch { first, last, kinds })
}

pub(super) fn put_reply(out: &mut Out, reply: &Reply) {
    match reply {
        Reply::Code(code) => {
            out.u8(1);
            out.i16(code.code());
        }
        Reply::Refused(code, text) => {
            out.u8(2);
            out.i16(code.code());
            out.str(text);
        }
        Reply::Next(Next::Full) => out.u8(3),
        Reply::Next(Next::Unset(StartAt::Latest)) => out.u8(4),
        Reply::Next(Next::Unset(StartAt::Earliest)) => out.u8(5),
        Reply::Next(Next::Unset(StartAt::Ago(ms))) => put_offset(out, 6, *ms),
        Reply::Next(Next::At { offset, committed }) => {
            put_offset(out, 7, *offset);
            out.u8(u8::from(*committed));
        }
        Reply::Acquired(all) => {
            out.u8(8);
            out.count(all.len());
            for one in all {
                out.i64(one.first);
                out.i64(one.last);
                out.i16(one.count);
            }
        }
        Reply::Summary(None) => out.u8(9),
        Reply::Summary(Some(summary)) => {
            put_offset(out, 10, summary.start);
            out.i64(summary.complete);
            out.i32(summary.leader_epoch);
        }
    }
}

pub(super) fn get_reply(r: &mut In<'_>) -> Result<Reply, Damaged> {
    Ok(match r.u8("the answer of a share-partition")? {
        1 => Reply::Code(code(r)?),
        2 => Reply::Refused(code(r)?, r.str("why it was refused")?.to_owned()),
        3 => Reply::Next(Next::Full),
        4 => Reply::Next(Next::Unset(StartAt::Latest)),
        5 => Reply::Next(Next::Unset(StartAt::Earliest)),
        6 => Reply::Next(Next::Unset(StartAt::Ago(r.i64("a time")?))),
        7 => Reply::Next(Next::At {
            offset: r.i64("an offset")?,
            committed: r.flag("what is delivered")?,
        }),
        8 => {
            let count = r.count(18, "a number of records")?;
            let all = (0..count).map(|_| {
                Ok(Acquired {
                    first: r.i64("an offset")?,
                    last: r.i64("an offset")?,
                    count: r.i16("a number of deliveries")?,
                })
            });
            Reply::Acquired(all.collect::<Result<_, Damaged>>()?)
        }
        9 => Reply::Summary(None),
        10 => Reply::Summary(Some(Summary {
            start: r.i64("an offset")?,
            complete: r.i64("a number of records")?,
            leader_epoch: r.i32("a leader epoch")?,
        })),
        _ => return Err(r.damaged("the answer of a share-partition")),
    })
}

/// One of Kafka's codes.
pub(super) fn code(r: &mut In<'_>) -> Result<ErrorCode, Damaged> {
    let code = r.i16("a code")?;
    ErrorCode::from_code(code).ok_or(r.damaged("a code"))
}
