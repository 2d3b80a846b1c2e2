//! Questions and answers in binary form. The first byte is the version of the form, the second the
//! kind.

use std::collections::BTreeSet;
use std::sync::Arc;

use streamd_model::ErrorCode;

use super::share::{get_reply, get_request, put_reply, put_request};
use super::{Answer, Marker, Outcome, Question};
use crate::codec::{Damaged, In, Out};
use crate::txn::{Add, Partitions};

const VERSION: u8 = 1;

impl Question {
    /// The binary form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Out::default();
        out.u8(VERSION);
        match self {
            Question::Marker(marker) => {
                out.u8(1);
                out.i64(marker.producer);
                out.i16(marker.epoch);
                out.u8(u8::from(marker.commit));
                out.i32(marker.coordinator_epoch);
            }
            Question::Txn { id, add, verify } => {
                out.u8(2);
                out.str(id);
                out.i64(add.producer);
                out.i16(add.epoch);
                out.i16(add.version);
                out.u8(u8::from(*verify));
                put_partitions(&mut out, &add.partitions);
            }
            Question::Share(request) => {
                out.u8(3);
                put_request(&mut out, request);
            }
            Question::Member { group, member } => {
                out.u8(4);
                out.str(group);
                out.str(member);
            }
            Question::Append(batch) => {
                out.u8(5);
                out.bytes(batch);
            }
            Question::Read { offset, bytes_max } => {
                out.u8(6);
                out.i64(*offset);
                out.u64(u64::from(*bytes_max));
            }
            Question::Offset(timestamp) => {
                out.u8(7);
                out.i64(*timestamp);
            }
            Question::Gone => out.u8(8),
        }
        out.0
    }

    /// Reads the binary form.
    ///
    /// # Errors
    /// [`Damaged`].
    pub fn decode(bytes: &[u8]) -> Result<Question, Damaged> {
        let mut r = In(bytes);
        let what = "a question to a partition's leader";
        let question = match kind(&mut r, what)? {
            1 => Question::Marker(Marker {
                producer: r.i64("a producer's id")?,
                epoch: r.i16("a producer's epoch")?,
                commit: r.flag("how a transaction ends")?,
                coordinator_epoch: r.i32("a coordinator's epoch")?,
            }),
            2 => get_txn(&mut r)?,
            3 => Question::Share(get_request(&mut r)?),
            4 => Question::Member {
                group: r.str("a group")?.into(),
                member: r.str("a member")?.into(),
            },
            5 => Question::Append(r.bytes("a batch")?.to_vec()),
            6 => {
                let offset = r.i64("an offset")?;
                let bytes_max = r.u64("a number of bytes")?;
                let bytes_max = u32::try_from(bytes_max);
                let bytes_max = bytes_max.map_err(|_| r.damaged("a number of bytes"))?;
                Question::Read { offset, bytes_max }
            }
            7 => Question::Offset(r.i64("a time")?),
            8 => Question::Gone,
            _ => return Err(r.damaged(what)),
        };
        r.end(what)?;
        Ok(question)
    }
}

fn kind(r: &mut In<'_>, what: &'static str) -> Result<u8, Damaged> {
    match r.u8(what)? {
        VERSION => r.u8(what),
        _ => Err(r.damaged(what)),
    }
}

fn get_txn(r: &mut In<'_>) -> Result<Question, Damaged> {
    let id = r.str("a transactional id")?.into();
    let (producer, epoch) = (r.i64("a producer's id")?, r.i16("a producer's epoch")?);
    let version = r.i16("a version of transactions")?;
    let verify = r.flag("whether to look only")?;
    let partitions = get_partitions(r)?;
    let add = Add {
        producer,
        epoch,
        partitions,
        version,
    };
    Ok(Question::Txn { id, add, verify })
}

fn put_partitions(out: &mut Out, partitions: &Partitions) {
    out.count(partitions.len());
    for (topic, indexes) in partitions {
        out.str(topic);
        out.count(indexes.len());
        indexes.iter().for_each(|index| out.i32(*index));
    }
}

fn get_partitions(r: &mut In<'_>) -> Result<Partitions, Damaged> {
    let mut partitions = Partitions::new();
    for _ in 0..r.count(8, "a number of topics")? {
        let topic: Arc<str> = r.str("a topic's name")?.into();
        let mut indexes = BTreeSet::new();
        for _ in 0..r.count(4, "a number of partitions")? {
            let index = r.i32("a partition's index")?;
            // They are told in order, each once.
            if indexes.last().is_some_and(|last| *last >= index) {
                return Err(r.damaged("a partition's index"));
            }
            indexes.insert(index);
        }
        if partitions
            .last_key_value()
            .is_some_and(|(last, _)| *last >= topic)
        {
            return Err(r.damaged("a topic's name"));
        }
        partitions.insert(topic, indexes);
    }
    Ok(partitions)
}

/// The binary form of an answer.
pub fn encode_outcome(outcome: &Outcome) -> Vec<u8> {
    let mut out = Out::default();
    out.u8(VERSION);
    match outcome {
        Err((code, text)) => {
            out.u8(0);
            out.i16(code.code());
            out.str(text);
        }
        Ok(Answer::Done) => out.u8(1),
        Ok(Answer::Missing(partitions)) => {
            out.u8(2);
            put_partitions(&mut out, partitions);
        }
        Ok(Answer::Share(reply)) => {
            out.u8(3);
            put_reply(&mut out, reply);
        }
        Ok(Answer::Member(is)) => {
            out.u8(4);
            out.u8(u8::from(*is));
        }
        Ok(Answer::Placed(base)) => {
            out.u8(5);
            out.i64(*base);
        }
        Ok(Answer::Records(bytes)) => {
            out.u8(6);
            out.bytes(bytes);
        }
        Ok(Answer::Offset(offset, timestamp, epoch)) => {
            out.u8(7);
            out.i64(*offset);
            out.i64(*timestamp);
            out.i32(*epoch);
        }
    }
    out.0
}

/// Reads what [`encode_outcome`] gave.
///
/// # Errors
/// [`Damaged`].
pub fn decode_outcome(bytes: &[u8]) -> Result<Outcome, Damaged> {
    let mut r = In(bytes);
    let what = "the answer of a partition's leader";
    let outcome = match kind(&mut r, what)? {
        0 => {
            let code = super::share::code(&mut r)?;
            if code == ErrorCode::None {
                return Err(r.damaged("why something was refused"));
            }
            Err((code, r.str("why something was refused")?.to_owned()))
        }
        1 => Ok(Answer::Done),
        2 => Ok(Answer::Missing(get_partitions(&mut r)?)),
        3 => Ok(Answer::Share(get_reply(&mut r)?)),
        4 => Ok(Answer::Member(r.flag("whether it is a member")?)),
        5 => Ok(Answer::Placed(r.i64("an offset")?)),
        6 => Ok(Answer::Records(r.bytes("records")?.to_vec())),
        7 => Ok(Answer::Offset(
            r.i64("an offset")?,
            r.i64("a timestamp")?,
            r.i32("a leader epoch")?,
        )),
        _ => return Err(r.damaged(what)),
    };
    r.end(what)?;
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use streamd_model::TopicId;

    use super::*;
    use crate::config::StartAt;
    use crate::share::{
        Ack, AckBatch, Acquire, Acquired, Ask, Key, Next, ReadBatch, Reply, Request, Summary,
    };

    fn shares() -> Vec<Question> {
        let key = Key {
            group: "g".into(),
            topic: TopicId([7; 16]),
            partition: 3,
        };
        let acquire = Acquire {
            member: "m".into(),
            read: vec![ReadBatch {
                first: 3,
                last: 9,
                skip: true,
            }],
            records_max: 500,
            strict: true,
            log_start: 1,
        };
        let kinds = vec![Ack::Gap, Ack::Accept, Ack::Release, Ack::Reject, Ack::Renew];
        let (first, last) = (3, 7);
        let asks = vec![
            Ask::Next,
            Ask::Begin(4),
            Ask::Acquire(acquire),
            Ask::Acknowledge("m".into(), vec![AckBatch { first, last, kinds }]),
            Ask::Release("m".into(), true),
            Ask::Wait(false),
            Ask::Summary,
            Ask::Reset(8),
            Ask::Forget,
            Ask::Buried(1, 2),
        ];
        let one = |ask| {
            let key = key.clone();
            Question::Share(Request { key, ask })
        };
        asks.into_iter().map(one).collect()
    }

    fn partitions() -> Partitions {
        [("t".into(), [0, 5].into()), ("u".into(), [1].into())].into()
    }

    fn questions() -> Vec<Question> {
        let marker = Marker {
            producer: 5,
            epoch: 6,
            commit: true,
            coordinator_epoch: 7,
        };
        let add = Add {
            producer: 5,
            epoch: 6,
            partitions: partitions(),
            version: 2,
        };
        let (id, verify) = ("id".into(), true);
        let (group, member) = ("g".into(), "m".into());
        let mut all = vec![
            Question::Marker(marker),
            Question::Txn { id, add, verify },
            Question::Member { group, member },
            Question::Append(vec![1, 2, 3]),
            Question::Read {
                offset: 9,
                bytes_max: 100,
            },
            Question::Offset(-1),
            Question::Gone,
        ];
        all.extend(shares());
        all
    }

    fn outcomes() -> Vec<Outcome> {
        let next = |next| Ok(Answer::Share(Reply::Next(next)));
        let summary = Summary {
            start: 1,
            complete: 2,
            leader_epoch: 3,
        };
        let acquired = Acquired {
            first: 1,
            last: 2,
            count: 3,
        };
        vec![
            Err((ErrorCode::NotCoordinator, "node 2 is".to_owned())),
            Ok(Answer::Done),
            Ok(Answer::Missing(partitions())),
            next(Next::Full),
            next(Next::Unset(StartAt::Latest)),
            next(Next::Unset(StartAt::Earliest)),
            next(Next::Unset(StartAt::Ago(9))),
            next(Next::At {
                offset: 4,
                committed: true,
            }),
            Ok(Answer::Share(Reply::Acquired(vec![acquired, acquired]))),
            Ok(Answer::Share(Reply::Summary(None))),
            Ok(Answer::Share(Reply::Summary(Some(summary)))),
            Ok(Answer::Share(Reply::Code(ErrorCode::None))),
            Ok(Answer::Share(Reply::Refused(
                ErrorCode::InvalidRecordState,
                "it is not yours".to_owned(),
            ))),
            Ok(Answer::Member(true)),
            Ok(Answer::Placed(77)),
            Ok(Answer::Records(vec![9, 8, 7])),
            Ok(Answer::Offset(1, 2, 3)),
        ]
    }

    #[test]
    fn what_is_said_is_understood_and_what_is_cut_is_refused() {
        for question in questions() {
            let bytes = question.encode();
            assert_eq!(Question::decode(&bytes), Ok(question));
            for end in 0..bytes.len() {
                assert!(Question::decode(&bytes[..end]).is_err(), "cut at {end}");
            }
        }
        for outcome in outcomes() {
            let bytes = encode_outcome(&outcome);
            assert_eq!(decode_outcome(&bytes), Ok(outcome));
            for end in 0..bytes.len() {
                assert!(decode_outcome(&bytes[..end]).is_err(), "cut at {end}");
            }
        }
    }

    proptest! {
        #[test]
        fn damage_never_panics(
            which in any::<usize>(), at in any::<usize>(), byte in any::<u8>(),
            noise in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let questions = questions();
            let mut bad = questions[which % questions.len()].encode();
            let place = at % bad.len();
            bad[place] = byte;
            if let Ok(read) = Question::decode(&bad) {
                prop_assert_eq!(read.encode(), bad);
            }
            let outcomes = outcomes();
            let mut bad = encode_outcome(&outcomes[which % outcomes.len()]);
            let place = at % bad.len();
            bad[place] = byte;
            let _ = decode_outcome(&bad);
            let _ = Question::decode(&noise);
            let _ = decode_outcome(&noise);
        }
    }
}
