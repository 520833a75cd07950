//! Who may deploy: tokens, stored as hashes.

use jiff::Timestamp;
use uuid::Uuid;

use crate::{Db, StoreError};

/// A token that was made; the token itself is not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    pub token_id: Uuid,
    pub name: String,
    pub created_by: String,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
}

/// Keeps a token's hash; without `expires_in_s` it does not expire.
///
/// # Errors
/// When the name is not acceptable, or the database cannot be reached.
pub async fn create(
    db: &Db,
    name: &str,
    sha256: &[u8; 32],
    expires_in_s: Option<i64>,
    by: &str,
) -> Result<TokenRow, StoreError> {
    let client = db.get().await?;
    let seconds = expires_in_s.map(|seconds| seconds as f64);
    let row = client
        .query_one(
            "insert into tramline.access_tokens (name, sha256, created_by, expires_at)
             values ($1, $2, $3, now() + $4 * interval '1 second')
             returning token_id, name, created_by, created_at, expires_at, revoked_at",
            &[&name, &sha256.as_slice(), &by, &seconds],
        )
        .await
        .map_err(|e| StoreError::query("create a token", e))?;
    Ok(token(&row))
}

/// The name of the token with this hash, when it may be used now.
///
/// # Errors
/// When the database cannot be reached.
pub async fn find(db: &Db, sha256: &[u8; 32]) -> Result<Option<String>, StoreError> {
    let client = db.get().await?;
    let row = client
        .query_opt(
            "select name from tramline.access_tokens
              where sha256 = $1 and revoked_at is null and coalesce(expires_at > now(), true)",
            &[&sha256.as_slice()],
        )
        .await
        .map_err(|e| StoreError::query("find a token", e))?;
    Ok(row.map(|row| row.get(0)))
}

/// All tokens, the newest first.
///
/// # Errors
/// When the database cannot be reached.
pub async fn list(db: &Db) -> Result<Vec<TokenRow>, StoreError> {
    let client = db.get().await?;
    let rows = client
        .query(
            "select token_id, name, created_by, created_at, expires_at, revoked_at
               from tramline.access_tokens order by created_at desc, token_id limit 1000",
            &[],
        )
        .await
        .map_err(|e| StoreError::query("list tokens", e))?;
    Ok(rows.iter().map(token).collect())
}

/// Withdraws the tokens of this name or id; how many there were.
///
/// # Errors
/// When the database cannot be reached.
pub async fn revoke(db: &Db, name: &str) -> Result<u64, StoreError> {
    let client = db.get().await?;
    client
        .execute(
            "update tramline.access_tokens set revoked_at = now()
              where revoked_at is null and (name = $1 or token_id::text = $1)",
            &[&name],
        )
        .await
        .map_err(|e| StoreError::query("revoke tokens", e))
}

fn token(row: &tokio_postgres::Row) -> TokenRow {
    TokenRow {
        token_id: row.get(0),
        name: row.get(1),
        created_by: row.get(2),
        created_at: row.get(3),
        expires_at: row.get(4),
        revoked_at: row.get(5),
    }
}
