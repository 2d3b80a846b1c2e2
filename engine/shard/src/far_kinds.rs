//! Requests as questions to another node, and its answers as replies.

use bytes::Bytes;
use streamd_core::call::{self, Answer, Question};
use streamd_core::{share, txn};
use streamd_model::{ErrorCode, PartitionId};

use crate::Refusal;
use crate::append::Placed;
use crate::mesh::{Reply, Request};
use crate::read::{OffsetFound, ReadDone};
use crate::read_bytes::ReadBytes;

/// Of what kind the reply to a request is.
pub(crate) enum Kind {
    Markers,
    Txns,
    Shares,
    Member,
    Append,
    Read,
    Offsets,
}

/// Questions about partitions, or why they are not asked.
type Questions = Vec<(PartitionId, Result<Question, Refusal>)>;

/// The code of a question that nobody has answered.
pub(crate) fn lost_code(question: &Question) -> ErrorCode {
    match question {
        Question::Txn { .. } | Question::Share(_) | Question::Member { .. } => {
            ErrorCode::CoordinatorNotAvailable
        }
        _ => ErrorCode::NotLeaderOrFollower,
    }
}

/// The code of a question to a node that does not lead the partition.
pub(crate) fn moved_code(question: &Question) -> ErrorCode {
    match lost_code(question) {
        ErrorCode::CoordinatorNotAvailable => ErrorCode::NotCoordinator,
        code => code,
    }
}

/// The questions of a request. `None` for what no other node is asked.
pub(crate) fn translate(request: Request) -> Option<(Kind, Questions)> {
    Some(match request {
        Request::Markers(all) => {
            let one = |m: crate::txn::Marker| {
                let marker = call::Marker {
                    producer: m.producer,
                    epoch: m.epoch,
                    commit: m.commit,
                    coordinator_epoch: m.coordinator_epoch,
                };
                (m.partition, Ok(Question::Marker(marker)))
            };
            (Kind::Markers, all.into_iter().map(one).collect())
        }
        Request::Txns(all) => {
            let one = |ask: crate::TxnAsk| (ask.partition, of_txn(ask));
            (Kind::Txns, all.into_iter().map(one).collect())
        }
        Request::Shares(all) => {
            let one = |ask: crate::ShareAsk| (ask.partition, Ok(Question::Share(ask.request)));
            (Kind::Shares, all.into_iter().map(one).collect())
        }
        Request::ShareMember(partition, group, member) => {
            let question = Question::Member { group, member };
            (Kind::Member, vec![(partition, Ok(question))])
        }
        Request::Append(items) => {
            let one = |item: crate::AppendItem| {
                let batch = item.batch.bytes.to_vec();
                (item.partition, Ok(Question::Append(batch)))
            };
            (Kind::Append, items.into_iter().map(one).collect())
        }
        Request::ReadBytes(items) => {
            let one = |item: crate::ReadItem| {
                let question = Question::Read {
                    offset: item.offset,
                    bytes_max: u32::try_from(item.bytes_max).unwrap_or(u32::MAX),
                };
                (item.partition, Ok(question))
            };
            (Kind::Read, items.into_iter().map(one).collect())
        }
        Request::Offsets(all) => {
            let one = |q: crate::OffsetQuery| (q.partition, Ok(Question::Offset(q.timestamp)));
            (Kind::Offsets, all.into_iter().map(one).collect())
        }
        _ => return None,
    })
}

fn of_txn(ask: crate::TxnAsk) -> Result<Question, Refusal> {
    let (add, verify) = match ask.request {
        txn::Request::Add(add) => (add, false),
        txn::Request::Verify(add) => (add, true),
        _ => {
            let text = "only its producer asks this, of the coordinator itself";
            return Err(Refusal::new(ErrorCode::NotCoordinator, text));
        }
    };
    let id = ask.key;
    Ok(Question::Txn { id, add, verify })
}

/// The answer was to another question.
fn odd() -> Refusal {
    Refusal::new(
        ErrorCode::UnknownServerError,
        "another node's answer is not to the question",
    )
}

/// Each answer as what it is to be.
fn each<T>(
    done: Vec<Result<Answer, Refusal>>,
    take: impl Fn(Answer) -> Option<T>,
) -> Vec<Result<T, Refusal>> {
    let one = |answer: Result<Answer, Refusal>| take(answer?).ok_or_else(odd);
    done.into_iter().map(one).collect()
}

impl Kind {
    /// The reply that such answers make.
    pub(crate) fn reply(self, done: Vec<Result<Answer, Refusal>>) -> Reply {
        match self {
            Kind::Markers => Reply::Markers(each(done, |a| match a {
                Answer::Done => Some(()),
                _ => None,
            })),
            Kind::Txns => Reply::Txns(each(done, |a| match a {
                Answer::Done => Some(txn::Reply::Code(ErrorCode::None)),
                Answer::Missing(partitions) => Some(txn::Reply::Missing(partitions)),
                _ => None,
            })),
            Kind::Shares => Reply::Shares(each(done, |a| match a {
                Answer::Share(reply) => Some(reply),
                _ => None::<share::Reply>,
            })),
            Kind::Member => {
                let mut done = each(done, |a| match a {
                    Answer::Member(is) => Some(is),
                    _ => None,
                });
                Reply::ShareMember(done.pop().unwrap_or_else(|| Err(odd())))
            }
            Kind::Append => Reply::Append(each(done, |a| match a {
                Answer::Placed(base) => Some(Placed {
                    base,
                    log_append_ms: -1,
                    log_start: -1,
                    epoch: -1,
                }),
                _ => None,
            })),
            Kind::Read => {
                let records = each(done, |a| match a {
                    Answer::Records(bytes) => Some(Bytes::from(bytes)),
                    _ => None,
                });
                // Where its log stands is not told.
                let one = |bytes| ReadBytes {
                    marks: ReadDone::refused(odd()).marks,
                    bytes,
                    aborted: Vec::new(),
                };
                Reply::ReadBytes(records.into_iter().map(one).collect())
            }
            Kind::Offsets => Reply::Offsets(each(done, |a| match a {
                Answer::Offset(offset, timestamp, epoch) => Some(OffsetFound {
                    offset,
                    timestamp,
                    epoch,
                }),
                _ => None,
            })),
        }
    }
}
