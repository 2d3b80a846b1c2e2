//! `streamctl txn ...`: list, describe, abort.

use std::thread;
use std::time::Instant;

use serde_json::{Value, json};
use streamd_model::ErrorCode;
use streamd_wire::kafka::generated::describe_transactions_response::TransactionState;
use streamd_wire::kafka::{
    DescribeTransactionsRequest, FindCoordinatorRequest, InitProducerIdRequest,
    ListTransactionsRequest, Request,
};

use crate::cli::{Global, Txn as Command};
use crate::client::{Client, RETRY_PAUSE, Which};
use crate::failure::{Failure, Result};
use crate::out;

/// The kind of key that transactional ids are.
const TRANSACTION: i8 = 1;

/// Runs the command.
///
/// # Errors
/// No broker answers, or it refuses.
pub fn run(global: &Global, command: &Command) -> Result<()> {
    let mut client = Client::new(global);
    match command {
        Command::List { state } => list(global, &mut client, state.as_deref()),
        Command::Describe { ids } => describe(global, &mut client, ids),
        Command::Abort { ids } => {
            for id in ids {
                abort(&mut client, id)?;
                let text = "Whoever had it is fenced";
                out::line(format_args!(
                    "Transactional id `{id}`: nothing is open. {text}"
                ))?;
            }
            Ok(())
        }
    }
}

struct Listed {
    id: String,
    producer: i64,
    state: String,
}

fn listed(client: &mut Client) -> Result<Vec<Listed>> {
    let brokers = client.metadata(Which::None)?.brokers;
    let mut all = Vec::new();
    for broker in brokers {
        let request = ListTransactionsRequest {
            duration_filter: -1,
            ..ListTransactionsRequest::default()
        };
        let answer = client.broker(broker.id)?.call(&request, i16::MAX)?;
        if answer.error_code != 0 {
            let what = "the list of transactions";
            return Err(Failure::code(what, answer.error_code, None));
        }
        all.extend(answer.transaction_states.iter().map(|t| Listed {
            id: t.transactional_id.to_owned(),
            producer: t.producer_id,
            state: t.transaction_state.to_owned(),
        }));
    }
    all.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(all)
}

fn list(global: &Global, client: &mut Client, state: Option<&str>) -> Result<()> {
    let mut all = listed(client)?;
    all.retain(|t| state.is_none_or(|s| s.eq_ignore_ascii_case(&t.state)));
    if global.json {
        let all = all.iter().map(
            |t| json!({"transactional_id": t.id, "producer_id": t.producer, "state": t.state}),
        );
        return out::json(&Value::Array(all.collect()));
    }
    if all.is_empty() {
        out::say("There are no such transactional ids");
        return Ok(());
    }
    let mut table = out::table(&["Transactional id", ">Producer id", "State"]);
    for t in all {
        table.add_row([t.id, t.producer.to_string(), t.state]);
    }
    out::line(out::text(&table))
}

/// Asks the coordinator of a transactional id, and again while `take` says that it may change.
fn coordinator<M: Request, T>(
    client: &mut Client,
    id: &str,
    (request, max): (&M, i16),
    take: impl Fn(&M::Response<'_>) -> std::result::Result<T, i16>,
) -> Result<T> {
    let deadline = Instant::now() + client.timeout;
    loop {
        let find = FindCoordinatorRequest {
            key: id,
            key_type: TRANSACTION,
            ..FindCoordinatorRequest::default()
        };
        // From version 4 on the answer is a list.
        let found = client.any()?.call(&find, 3)?;
        let code = match (found.error_code, found.node_id) {
            (0, node) => {
                client.metadata(Which::None)?;
                match take(&client.broker(node)?.call(request, max)?) {
                    Ok(done) => return Ok(done),
                    Err(code) => code,
                }
            }
            (code, _) => code,
        };
        use ErrorCode as E;
        let passing = matches!(
            ErrorCode::from_code(code),
            Some(
                E::CoordinatorLoadInProgress
                    | E::CoordinatorNotAvailable
                    | E::NotCoordinator
                    | E::ConcurrentTransactions
            )
        );
        if !passing || Instant::now() > deadline {
            let what = format!("transactional id `{id}`");
            return Err(Failure::code(&what, code, None));
        }
        thread::sleep(RETRY_PAUSE);
    }
}

struct Described {
    state: String,
    producer: i64,
    epoch: i16,
    timeout_ms: i32,
    started_ms: i64,
    partitions: Vec<String>,
}

fn described(client: &mut Client, id: &str) -> Result<Described> {
    let request = DescribeTransactionsRequest {
        transactional_ids: vec![id].into(),
    };
    let partitions = |t: &TransactionState<'_>| {
        let each = |topic: &str, ps: Vec<i32>| {
            ps.into_iter()
                .map(|p| format!("{topic}-{p}"))
                .collect::<Vec<_>>()
        };
        let all = t
            .topics
            .iter()
            .flat_map(|d| each(d.topic, d.partitions.to_vec()));
        all.collect()
    };
    coordinator(client, id, (&request, i16::MAX), |answer| {
        let Some(t) = answer.transaction_states.iter().next() else {
            return Err(ErrorCode::TransactionalIdNotFound.code());
        };
        if t.error_code != 0 {
            return Err(t.error_code);
        }
        Ok(Described {
            state: t.transaction_state.to_owned(),
            producer: t.producer_id,
            epoch: t.producer_epoch,
            timeout_ms: t.transaction_timeout_ms,
            started_ms: t.transaction_start_time_ms,
            partitions: partitions(&t),
        })
    })
}

fn describe(global: &Global, client: &mut Client, ids: &[String]) -> Result<()> {
    let ids = match ids.is_empty() {
        true => listed(client)?.into_iter().map(|t| t.id).collect(),
        false => ids.to_vec(),
    };
    let mut documents = Vec::new();
    let mut texts = Vec::new();
    for id in ids {
        let t = described(client, &id)?;
        let open = t.started_ms >= 0;
        documents.push(json!({
            "transactional_id": id, "state": t.state, "producer_id": t.producer,
            "producer_epoch": t.epoch, "timeout_ms": t.timeout_ms,
            "started_ms": open.then_some(t.started_ms), "partitions": t.partitions,
        }));
        let began = match open {
            true => format!("\n  began       {}", out::time(t.started_ms)),
            false => String::new(),
        };
        texts.push(format!(
            "{id}\n  state       {}\n  producer    {} epoch {}\n  timeout     {} ms{began}\n  \
             partitions  {}",
            t.state,
            t.producer,
            t.epoch,
            t.timeout_ms,
            match t.partitions.is_empty() {
                true => "-".to_owned(),
                false => t.partitions.join(" "),
            }
        ));
    }
    match global.json {
        true => out::json(&Value::Array(documents)),
        false => out::line(texts.join("\n\n")),
    }
}

/// Aborts what is open by beginning anew under the id, which fences whoever had it.
fn abort(client: &mut Client, id: &str) -> Result<()> {
    // Beginning under an id that nobody knows would make it.
    let timeout_ms = described(client, id)?.timeout_ms;
    let request = InitProducerIdRequest {
        transactional_id: Some(id),
        transaction_timeout_ms: timeout_ms,
        producer_id: -1,
        producer_epoch: -1,
        ..InitProducerIdRequest::default()
    };
    // Version 6 is about two-phase commit.
    coordinator(client, id, (&request, 5), |answer| {
        match answer.error_code {
            0 => Ok(()),
            code => Err(code),
        }
    })
}
