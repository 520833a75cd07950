//! Secrets of functions, sealed: this module never sees a value.

use jiff::Timestamp;

use crate::{Db, StoreError};

/// A secret.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretRow {
    pub name: String,
    /// The value as the nodes have sealed it.
    pub sealed: Vec<u8>,
    /// SHA-256 (hex) of the value.
    pub digest: String,
    pub updated_at: Timestamp,
}

/// A secret to be kept.
#[derive(Clone)]
pub struct NewSecret {
    pub name: String,
    pub sealed: Vec<u8>,
    /// SHA-256 (hex) of the value.
    pub digest: String,
}

/// All secrets by name.
///
/// # Errors
/// When the database cannot be reached.
pub async fn list(db: &Db) -> Result<Vec<SecretRow>, StoreError> {
    let client = db.get().await?;
    let rows = client
        .query(
            "select name, sealed, digest, updated_at from tramline.function_secrets order by name",
            &[],
        )
        .await
        .map_err(|e| StoreError::query("list secrets", e))?;
    Ok(rows
        .iter()
        .map(|row| SecretRow {
            name: row.get(0),
            sealed: row.get(1),
            digest: row.get(2),
            updated_at: row.get(3),
        })
        .collect())
}

/// Sets secrets, all or none, up to `max` in all.
///
/// # Errors
/// When there would be too many, or the database cannot be reached.
pub async fn set(db: &Db, secrets: &[NewSecret], by: &str, max: i32) -> Result<(), StoreError> {
    let client = db.get().await?;
    let names: Vec<&str> = secrets.iter().map(|secret| secret.name.as_str()).collect();
    let sealed: Vec<&[u8]> = secrets.iter().map(|secret| secret.sealed.as_slice()).collect();
    let digests: Vec<&str> = secrets.iter().map(|secret| secret.digest.as_str()).collect();
    client
        .execute(
            "select tramline.set_function_secrets($1, $2, $3, $4, $5)",
            &[&names, &sealed, &digests, &by, &max],
        )
        .await
        .map_err(|e| StoreError::query("set secrets", e))?;
    Ok(())
}

/// Removes secrets; how many there were.
///
/// # Errors
/// When the database cannot be reached.
pub async fn unset(db: &Db, names: &[String]) -> Result<i64, StoreError> {
    let client = db.get().await?;
    let row = client
        .query_one("select tramline.unset_function_secrets($1)", &[&names])
        .await
        .map_err(|e| StoreError::query("unset secrets", e))?;
    Ok(row.get(0))
}
