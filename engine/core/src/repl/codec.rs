//! What replicas say to each other in binary form: what `Replica` frames of the native protocol
//! carry between nodes. The first byte is the version of the form, the second the kind; records
//! stand behind, and are not looked at here.

use streamd_model::{Epoch, ErrorCode, Offset};

use super::{Head, Message, Session};
use crate::codec::{Damaged, In, Out};

const VERSION: u8 = 1;

impl Message {
    /// Appends the binary form.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        let mut out = Out(std::mem::take(bytes));
        out.u8(VERSION);
        match *self {
            Message::Subscribe {
                epoch,
                session,
                last_epoch,
                end,
                durable,
                credit,
            } => {
                begin(&mut out, 1, epoch, session);
                out.i32(last_epoch);
                out.i64(end);
                out.i64(durable);
                out.u64(credit);
            }
            Message::Diverged {
                epoch,
                session,
                at,
                end,
            } => {
                begin(&mut out, 2, epoch, session);
                out.i32(at);
                out.i64(end);
            }
            Message::Begin {
                epoch,
                session,
                start,
            } => {
                begin(&mut out, 3, epoch, session);
                out.i64(start);
            }
            Message::Data(head) => {
                begin(&mut out, 4, head.epoch, head.session);
                out.i64(head.base);
                out.i64(head.high);
                out.i64(head.start);
            }
            Message::Ack {
                epoch,
                session,
                durable,
                taken,
            } => {
                begin(&mut out, 5, epoch, session);
                out.i64(durable);
                out.u64(taken);
            }
            Message::Refused {
                epoch,
                session,
                why,
            } => {
                begin(&mut out, 6, epoch, session);
                out.i16(why.code());
            }
        }
        *bytes = out.0;
    }

    /// Reads what [`Message::encode`] wrote, and gives the records behind it: only
    /// [`Message::Data`] may have some.
    ///
    /// # Errors
    /// [`Damaged`] if the bytes are no message that is known here.
    pub fn decode(bytes: &[u8]) -> Result<(Message, &[u8]), Damaged> {
        let mut r = In(bytes);
        if r.u8("the version of a replica's message")? != VERSION {
            return Err(r.damaged("a replica's message of an unknown version"));
        }
        let kind = r.u8("the kind of a replica's message")?;
        let epoch = epoch(&mut r, 0, "a leader epoch")?;
        let session = (r.i64("a subscription")?, r.u64("a subscription")?);
        let message = match kind {
            1 => subscribe(&mut r, epoch, session)?,
            2 => Message::Diverged {
                epoch,
                session,
                at: self::epoch(&mut r, -1, "the epoch of a leader's log")?,
                end: offset(&mut r, "where an epoch ends")?,
            },
            3 => Message::Begin {
                epoch,
                session,
                start: offset(&mut r, "a log start")?,
            },
            4 => {
                let head = Head {
                    epoch,
                    session,
                    base: offset(&mut r, "the offset of records")?,
                    high: offset(&mut r, "a high watermark")?,
                    start: offset(&mut r, "a log start")?,
                };
                return Ok((Message::Data(head), r.0));
            }
            5 => Message::Ack {
                epoch,
                session,
                durable: offset(&mut r, "what is durable")?,
                taken: r.u64("what was taken")?,
            },
            6 => Message::Refused {
                epoch,
                session,
                why: code(&mut r)?,
            },
            _ => return Err(r.damaged("a replica's message of an unknown kind")),
        };
        r.end("a replica's message with bytes behind it")?;
        Ok((message, r.0))
    }
}

fn begin(out: &mut Out, kind: u8, epoch: Epoch, session: Session) {
    out.u8(kind);
    out.i32(epoch);
    out.i64(session.0);
    out.u64(session.1);
}

fn subscribe(r: &mut In<'_>, epoch: Epoch, session: Session) -> Result<Message, Damaged> {
    let message = Message::Subscribe {
        epoch,
        session,
        last_epoch: self::epoch(r, -1, "a last epoch")?,
        end: offset(r, "a log's end")?,
        durable: offset(r, "what is durable")?,
        credit: r.u64("a credit")?,
    };
    match message {
        Message::Subscribe { end, durable, .. } if durable > end => {
            Err(r.damaged("what is durable"))
        }
        message => Ok(message),
    }
}

fn epoch(r: &mut In<'_>, least: Epoch, what: &'static str) -> Result<Epoch, Damaged> {
    match r.i32(what)? {
        epoch if epoch >= least => Ok(epoch),
        _ => Err(r.damaged(what)),
    }
}

fn offset(r: &mut In<'_>, what: &'static str) -> Result<Offset, Damaged> {
    match r.i64(what)? {
        offset @ 0.. => Ok(offset),
        _ => Err(r.damaged(what)),
    }
}

/// Codes that only a newer version knows become the one that says so.
fn code(r: &mut In<'_>) -> Result<ErrorCode, Damaged> {
    let number = r.i16("an error code")?;
    Ok(ErrorCode::from_code(number).unwrap_or(ErrorCode::UnknownServerError))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message() -> impl Strategy<Value = Message> {
        let at = || (0..i32::MAX, (any::<i64>(), any::<u64>()));
        let offset = || 0..i64::MAX;
        let subscribe = (at(), -1..i32::MAX, offset(), offset(), any::<u64>());
        let head = (at(), offset(), offset(), offset());
        prop_oneof![
            subscribe.prop_map(|((epoch, session), last_epoch, a, b, credit)| {
                Message::Subscribe {
                    epoch,
                    session,
                    last_epoch,
                    end: a.max(b),
                    durable: a.min(b),
                    credit,
                }
            }),
            (at(), -1..i32::MAX, offset()).prop_map(|((epoch, session), at, end)| {
                Message::Diverged {
                    epoch,
                    session,
                    at,
                    end,
                }
            }),
            (at(), offset()).prop_map(|((epoch, session), start)| Message::Begin {
                epoch,
                session,
                start,
            }),
            head.prop_map(|((epoch, session), base, high, start)| {
                Message::Data(Head {
                    epoch,
                    session,
                    base,
                    high,
                    start,
                })
            }),
            (at(), offset(), any::<u64>()).prop_map(|((epoch, session), durable, taken)| {
                Message::Ack {
                    epoch,
                    session,
                    durable,
                    taken,
                }
            }),
            (at(), 74..78i16).prop_map(|((epoch, session), code)| Message::Refused {
                epoch,
                session,
                why: ErrorCode::from_code(code).unwrap(),
            }),
        ]
    }

    proptest! {
        #[test]
        fn round_trip(message in message(), before in 0..5usize, records in any::<Vec<u8>>()) {
            let mut bytes = vec![9; before];
            message.encode(&mut bytes);
            prop_assert_eq!(Message::decode(&bytes[before..]), Ok((message.clone(), &[][..])));
            let whole = bytes.len();
            bytes.extend_from_slice(&records);
            let has_records = matches!(message, Message::Data(_));
            let decoded = Message::decode(&bytes[before..]);
            match has_records || records.is_empty() {
                true => prop_assert_eq!(decoded, Ok((message, &bytes[whole..]))),
                false => prop_assert!(decoded.is_err()),
            }
            for end in before..whole {
                prop_assert!(Message::decode(&bytes[before..end]).is_err(), "cut at {}", end);
            }
        }

        #[test]
        fn damaged_bytes_are_refused_or_are_another_message(
            message in message(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok((other, rest)) = Message::decode(&bytes) {
                let mut again = Vec::new();
                other.encode(&mut again);
                again.extend_from_slice(rest);
                // A code that is not known here is another one afterwards.
                let coded = matches!(other, Message::Refused { .. });
                prop_assert!(again == bytes || coded);
            }
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Message::decode(&bytes);
            let head = [VERSION, bytes.len() as u8 % 8];
            let _ = Message::decode(&[&head, bytes.as_slice()].concat());
        }
    }
}
