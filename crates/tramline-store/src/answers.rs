//! Answers of functions by idempotency key: taken by one request at a time, kept for the ones that repeat it.
//!
//! A claim is fenced by its holder: who lost it to another request changes nothing any more and is told so.

use std::time::Duration;

use uuid::Uuid;

use crate::{Db, StoreError};

/// A request that wants to work on a key.
#[derive(Debug, Clone)]
pub struct AnswerClaim {
    /// SHA-256 of function, method, path, caller and key.
    pub key: [u8; 32],
    /// The function.
    pub function: String,
    /// SHA-256 of what is asked.
    pub fingerprint: [u8; 32],
    /// Id of the request.
    pub holder: Uuid,
    /// How long the answer is kept.
    pub retention: Duration,
}

/// An answer as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAnswer {
    /// HTTP status.
    pub status: u16,
    /// Headers in their order.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The whole body.
    pub body: Vec<u8>,
}

/// How a key stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnswerState {
    /// Taken by this call.
    New,
    /// Another request works on it.
    Running,
    /// It was used for a request that asked for something else.
    Other,
    /// The request was answered, with an answer too large to be kept.
    TooLarge,
    /// The request was answered.
    Kept(KeptAnswer),
}

/// Takes a key for `lease`, or tells how it stands.
///
/// # Errors
/// When the database cannot be reached.
pub async fn begin(db: &Db, claim: &AnswerClaim, lease: Duration) -> Result<AnswerState, StoreError> {
    let client = db.get().await?;
    let row = client
        .query_one(
            "select state, status, header_names, header_values, body
               from tramline.begin_answer($1, $2, $3, $4, $5 * interval '1 second', $6 * interval '1 second')",
            &[
                &claim.key.as_slice(),
                &claim.function,
                &claim.fingerprint.as_slice(),
                &claim.holder,
                &lease.as_secs_f64(),
                &claim.retention.as_secs_f64(),
            ],
        )
        .await
        .map_err(|e| StoreError::query("begin an answer", e))?;
    Ok(match row.get::<_, &str>(0) {
        "new" => AnswerState::New,
        "other" => AnswerState::Other,
        "too_large" => AnswerState::TooLarge,
        "kept" => AnswerState::Kept(kept(&row)?),
        _ => AnswerState::Running,
    })
}

fn kept(row: &tokio_postgres::Row) -> Result<KeptAnswer, StoreError> {
    let names: Vec<String> = row.get(2);
    let values: Vec<Vec<u8>> = row.get(3);
    let status: i32 = row.get(1);
    Ok(KeptAnswer {
        status: u16::try_from(status).map_err(|_| StoreError::Decode {
            what: "a kept answer",
            reason: format!("{status} is no HTTP status"),
        })?,
        headers: names.into_iter().zip(values).collect(),
        body: row.get(4),
    })
}

/// Holds a key for `lease` more; false when another request has it.
///
/// # Errors
/// When the database cannot be reached.
pub async fn renew(db: &Db, claim: &AnswerClaim, lease: Duration) -> Result<bool, StoreError> {
    let client = db.get().await?;
    let renewed = client
        .execute(
            "update tramline.idempotent_answers set lease_until = now() + $3 * interval '1 second'
              where key_hash = $1 and holder = $2 and ended_at is null",
            &[&claim.key.as_slice(), &claim.holder, &lease.as_secs_f64()],
        )
        .await
        .map_err(|e| StoreError::query("renew an answer", e))?;
    Ok(renewed > 0)
}

/// Records that the request was answered; without an answer it was too large. May be called again when the outcome of a
/// call is not known. False when another request has the key.
///
/// # Errors
/// When the database cannot be reached.
pub async fn end(db: &Db, claim: &AnswerClaim, answer: Option<&KeptAnswer>) -> Result<bool, StoreError> {
    let client = db.get().await?;
    let status = answer.map(|answer| i32::from(answer.status));
    let names: Option<Vec<&str>> =
        answer.map(|answer| answer.headers.iter().map(|(name, _)| name.as_str()).collect());
    let values: Option<Vec<&[u8]>> =
        answer.map(|answer| answer.headers.iter().map(|(_, value)| value.as_slice()).collect());
    let body = answer.map(|answer| answer.body.as_slice());
    let ended = client
        .execute(
            "update tramline.idempotent_answers
                set ended_at = now(), status = $3, header_names = $4, header_values = $5, body = $6,
                    expires_at = now() + $7 * interval '1 second'
              where key_hash = $1 and holder = $2",
            &[
                &claim.key.as_slice(),
                &claim.holder,
                &status,
                &names,
                &values,
                &body,
                &claim.retention.as_secs_f64(),
            ],
        )
        .await
        .map_err(|e| StoreError::query("end an answer", e))?;
    Ok(ended > 0)
}

/// Gives a key back without an answer: the next request with it is a new one.
///
/// # Errors
/// When the database cannot be reached.
pub async fn free(db: &Db, claim: &AnswerClaim) -> Result<(), StoreError> {
    let client = db.get().await?;
    client
        .execute(
            "delete from tramline.idempotent_answers where key_hash = $1 and holder = $2 and ended_at is null",
            &[&claim.key.as_slice(), &claim.holder],
        )
        .await
        .map_err(|e| StoreError::query("free an answer", e))?;
    Ok(())
}
