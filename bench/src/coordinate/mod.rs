//! Loads of coordinators: commits of offsets, transactions, rebalances of groups.
//!
//! Every connection is a client that has one request out at a time and decides by the answer what
//! comes next. Closed loop. What is counted is done work (a commit, a transaction, a rebalance),
//! with the time from when it was begun.

pub mod classic;
pub mod commit;
pub mod consumer;
pub mod rebalance;
pub mod transaction;

use std::rc::Rc;

use streamd_model::ErrorCode;
use streamd_wire::kafka::frame::encode_request;
use streamd_wire::kafka::{ApiKey, Decode, Message, Request, ResponseHeader, Writer};

use crate::admin::{Admin, CLIENT_ID, error_name};
use crate::conn::Template;
use crate::failure::{Context, Failure, Result};

/// After how many nanoseconds what a coordinator could not do yet is asked again.
pub const AGAIN_AFTER: u64 = 2_000_000;

/// A request as it goes out.
///
/// # Errors
/// It cannot be encoded.
pub fn template<M: Request>(request: &M, version: i16) -> Result<Rc<Template>> {
    let mut w = Writer::new();
    encode_request(request, version, 0, Some(CLIENT_ID), &mut w)
        .context(|| format!("cannot encode {}", M::NAME))?;
    Ok(Rc::new(Template {
        head: w.into_parts().0,
        ..Template::default()
    }))
}

/// Reads an answer.
///
/// # Errors
/// It is none.
pub fn answer<'a, M: Message + Decode<'a>>(
    frame: &'a [u8],
    api: ApiKey,
    version: i16,
) -> Result<M> {
    let what = || format!("the broker's {} cannot be read", M::NAME);
    let header = ResponseHeader {
        api,
        version,
        correlation_id: 0,
    };
    let (_, body) = header.parse(frame).context(what)?;
    M::decode_body(body, version).context(what)
}

/// Whether something was done (true), or is to be asked again because its coordinator is not
/// ready (false).
///
/// # Errors
/// It was refused.
pub fn done(code: i16, what: &str) -> Result<bool> {
    let later = [
        ErrorCode::CoordinatorLoadInProgress,
        ErrorCode::CoordinatorNotAvailable,
        ErrorCode::NotCoordinator,
        ErrorCode::ConcurrentTransactions,
        ErrorCode::NotEnoughReplicas,
    ];
    match code {
        0 => Ok(true),
        _ if later.iter().any(|error| error.code() == code) => Ok(false),
        _ => Err(Failure::new(format!(
            "{what} was refused: {}",
            error_name(code)
        ))),
    }
}

/// The newest version of an API up to the one that is spoken here.
///
/// # Errors
/// The broker does not serve it, or only older ones than `least`.
pub fn version(admin: &Admin, api: ApiKey, (least, most): (i16, i16)) -> Result<i16> {
    let version = admin.version(api, most)?;
    if version >= least {
        return Ok(version);
    }
    Err(Failure::new(format!(
        "the broker serves {} up to version {version}, this load needs {least}",
        api.name()
    )))
}
