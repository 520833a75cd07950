//! What the gateways of all nodes share: keys of signed links, and the webhooks that were accepted.

use std::time::Duration;

use crate::{Db, StoreError};

/// A key that signs links.
#[derive(Clone)]
pub struct LinkKeyRow {
    /// Its name in links.
    pub key_id: i32,
    /// The HMAC secret.
    pub secret: String,
}

/// A link to be signed; the texts are encoded as in a URL.
#[derive(Debug, Clone)]
pub struct NewLink {
    /// The function.
    pub function: String,
    /// What stands after the function's name.
    pub path: String,
    /// The query without `?`.
    pub query: String,
    /// `GET`, `POST`, `PUT`, `PATCH` or `DELETE`.
    pub method: String,
    /// Seconds until it expires.
    pub expires_in_s: i64,
}

/// How a delivery of a webhook stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    /// Taken by this call.
    New,
    /// Somebody works on it.
    Running,
    /// Accepted before.
    Accepted,
}

/// The keys whose links are good.
///
/// # Errors
/// When the database cannot be reached.
pub async fn link_keys(db: &Db) -> Result<Vec<LinkKeyRow>, StoreError> {
    let client = db.get().await?;
    let rows = client
        .query(
            "select key_id, secret from tramline.link_keys where retired_at is null",
            &[],
        )
        .await
        .map_err(|e| StoreError::query("read keys of links", e))?;
    Ok(rows
        .into_iter()
        .map(|row| LinkKeyRow {
            key_id: row.get(0),
            secret: row.get(1),
        })
        .collect())
}

/// Signs a link: the path and query of its URL.
///
/// # Errors
/// When something about the link is refused, or the database cannot be reached.
pub async fn sign_link(db: &Db, link: &NewLink) -> Result<String, StoreError> {
    let client = db.get().await?;
    let row = client
        .query_one(
            "select ops.sign_link($1, $2, $3, $4 * interval '1 second', $5)",
            &[
                &link.function,
                &link.path,
                &link.query,
                &(link.expires_in_s as f64),
                &link.method,
            ],
        )
        .await
        .map_err(|e| StoreError::query("sign a link", e))?;
    Ok(row.get(0))
}

/// Takes a delivery for a function, for `lease` at most.
///
/// # Errors
/// When the database cannot be reached.
pub async fn begin_delivery(
    db: &Db,
    function: &str,
    id: &str,
    lease: Duration,
) -> Result<DeliveryState, StoreError> {
    let client = db.get().await?;
    let row = client
        .query_one(
            "select tramline.begin_delivery($1, $2, $3 * interval '1 second')",
            &[&function, &id, &lease.as_secs_f64()],
        )
        .await
        .map_err(|e| StoreError::query("begin a delivery", e))?;
    Ok(match row.get::<_, &str>(0) {
        "new" => DeliveryState::New,
        "accepted" => DeliveryState::Accepted,
        _ => DeliveryState::Running,
    })
}

/// Ends a delivery: an accepted one is remembered, another one forgotten.
///
/// # Errors
/// When the database cannot be reached.
pub async fn end_delivery(db: &Db, function: &str, id: &str, accepted: bool) -> Result<(), StoreError> {
    let client = db.get().await?;
    let sql = if accepted {
        "update tramline.webhook_deliveries set accepted_at = now() where function = $1 and delivery_id = $2"
    } else {
        "delete from tramline.webhook_deliveries where function = $1 and delivery_id = $2 and accepted_at is null"
    };
    client
        .execute(sql, &[&function, &id])
        .await
        .map_err(|e| StoreError::query("end a delivery", e))?;
    Ok(())
}
