//! Deployed functions: immutable versions with their sources and bundles, and which of them is active.

use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::Row;

use crate::{Db, StoreError};

/// Versions of a function that are kept beside the active one and the one before it: enough to go back over weeks of deploys.
pub const VERSIONS_KEPT: i32 = 20;

/// A SHA-256.
pub type Hash = [u8; 32];

/// A file of the sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Relative to the project.
    pub path: String,
    pub content: Vec<u8>,
    /// The function reads it at run time.
    pub is_static: bool,
}

/// A version to be stored.
#[derive(Debug, Clone)]
pub struct NewVersion {
    pub name: String,
    /// Of the sources and the configuration.
    pub sources_sha256: Hash,
    pub files: Vec<(File, Hash)>,
    pub bundle: Vec<u8>,
    pub bundle_sha256: Hash,
    pub config: Value,
    pub dependencies: Value,
    pub by: String,
}

/// A version without its contents.
#[derive(Debug, Clone, PartialEq)]
pub struct VersionRow {
    pub name: String,
    pub version: i32,
    pub is_active: bool,
    /// The function reads files at run time.
    pub has_static_files: bool,
    pub sources_sha256: Vec<u8>,
    pub bundle_sha256: Vec<u8>,
    pub config: Value,
    pub dependencies: Value,
    pub created_by: String,
    pub created_at: Timestamp,
    /// When the function was deployed first, and when its active version was made so; of the version where none is active.
    pub first_at: Timestamp,
    pub active_at: Timestamp,
}

/// What a node needs to run a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    pub bundle: Vec<u8>,
    /// Files that are read at run time.
    pub static_files: Vec<(String, Vec<u8>)>,
}

/// Stores a version, inactive; the same sources with the same bundle are found again. The number, and whether it is new.
///
/// # Errors
/// When the database cannot be reached.
pub async fn store(db: &Db, new: &NewVersion) -> Result<(i32, bool), StoreError> {
    let client = db.get().await?;
    let paths: Vec<&str> = new.files.iter().map(|(file, _)| file.path.as_str()).collect();
    let hashes: Vec<&[u8]> = new.files.iter().map(|(_, hash)| hash.as_slice()).collect();
    let is_static: Vec<bool> = new.files.iter().map(|(file, _)| file.is_static).collect();
    let contents: Vec<&[u8]> = new
        .files
        .iter()
        .map(|(file, _)| file.content.as_slice())
        .chain([new.bundle.as_slice()])
        .collect();
    let row = client
        .query_one(
            "select version, created from tramline.store_function_version($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
            &[
                &new.name,
                &new.sources_sha256.as_slice(),
                &new.bundle_sha256.as_slice(),
                &new.config,
                &new.dependencies,
                &paths,
                &hashes,
                &is_static,
                &contents,
                &new.by,
                &VERSIONS_KEPT,
            ],
        )
        .await
        .map_err(|e| StoreError::query("store a function's version", e))?;
    Ok((row.get(0), row.get(1)))
}

/// Makes versions active, all or none; the functions that run another one now.
///
/// # Errors
/// When one of them does not exist (`TL404`), or the database cannot be reached.
pub async fn activate(db: &Db, versions: &[(String, i32)], by: &str) -> Result<Vec<String>, StoreError> {
    let client = db.get().await?;
    let (names, numbers): (Vec<&str>, Vec<i32>) =
        versions.iter().map(|(name, n)| (name.as_str(), *n)).unzip();
    let rows = client
        .query(
            "select * from tramline.activate_functions($1, $2, $3)",
            &[&names, &numbers, &by],
        )
        .await
        .map_err(|e| StoreError::query("activate functions", e))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The version that was active before the one that is; none when there was none, or it is not kept.
///
/// # Errors
/// When the database cannot be reached.
pub async fn previous(db: &Db, name: &str) -> Result<Option<i32>, StoreError> {
    let client = db.get().await?;
    let row = client
        .query_one(
            "select (select v.version from tramline.function_versions v
                      where v.name = $1 and v.version = tramline.previous_function_version($1))",
            &[&name],
        )
        .await
        .map_err(|e| StoreError::query("previous version", e))?;
    Ok(row.get(0))
}

/// Forgets a function with all its versions. False when it is not deployed.
///
/// # Errors
/// When the database cannot be reached.
pub async fn delete(db: &Db, name: &str, by: &str) -> Result<bool, StoreError> {
    let client = db.get().await?;
    let row = client
        .query_one("select tramline.delete_function($1, $2)", &[&name, &by])
        .await
        .map_err(|e| StoreError::query("delete a function", e))?;
    Ok(row.get(0))
}

const VERSION: &str = "select v.name, v.version, a.version is not distinct from v.version, v.sources_sha256, v.bundle_sha256, v.config,
    v.dependencies, v.created_by, v.created_at, coalesce(a.created_at, v.created_at), coalesce(a.updated_at, v.created_at),
    exists (select from tramline.function_files f where f.name = v.name and f.version = v.version and f.is_static)
    from tramline.function_versions v left join tramline.active_functions a on a.name = v.name";

/// The active versions by name, with the number of the change that they are the state of.
///
/// # Errors
/// When the database cannot be reached.
pub async fn active(db: &Db) -> Result<Vec<VersionRow>, StoreError> {
    let client = db.get().await?;
    let rows = client
        .query(
            &format!("{VERSION} where a.version = v.version order by v.name"),
            &[],
        )
        .await
        .map_err(|e| StoreError::query("active functions", e))?;
    Ok(rows.iter().map(version).collect())
}

/// The versions of a function, the newest first.
///
/// # Errors
/// When the database cannot be reached.
pub async fn list(db: &Db, name: &str) -> Result<Vec<VersionRow>, StoreError> {
    let client = db.get().await?;
    let rows = client
        .query(
            &format!("{VERSION} where v.name = $1 order by v.version desc"),
            &[&name],
        )
        .await
        .map_err(|e| StoreError::query("versions of a function", e))?;
    Ok(rows.iter().map(version).collect())
}

/// The sources of a version, by path; empty when there is no such version.
///
/// # Errors
/// When the database cannot be reached.
pub async fn files(db: &Db, name: &str, version: i32) -> Result<Vec<File>, StoreError> {
    let client = db.get().await?;
    let rows = client
        .query(
            "select f.path, b.content, f.is_static
               from tramline.function_files f join tramline.function_blobs b on b.sha256 = f.sha256
              where f.name = $1 and f.version = $2 order by f.path",
            &[&name, &version],
        )
        .await
        .map_err(|e| StoreError::query("sources of a function", e))?;
    Ok(rows
        .iter()
        .map(|row| File {
            path: row.get(0),
            content: row.get(1),
            is_static: row.get(2),
        })
        .collect())
}

/// What a node needs to run a version; none when it is gone.
///
/// # Errors
/// When the database cannot be reached.
pub async fn package(db: &Db, name: &str, version: i32) -> Result<Option<Package>, StoreError> {
    let client = db.get().await?;
    let bundle = client
        .query_opt(
            "select b.content from tramline.function_versions v join tramline.function_blobs b on b.sha256 = v.bundle_sha256
              where v.name = $1 and v.version = $2",
            &[&name, &version],
        )
        .await
        .map_err(|e| StoreError::query("bundle of a function", e))?;
    let Some(bundle) = bundle else { return Ok(None) };
    let files = client
        .query(
            "select f.path, b.content from tramline.function_files f join tramline.function_blobs b on b.sha256 = f.sha256
              where f.name = $1 and f.version = $2 and f.is_static order by f.path",
            &[&name, &version],
        )
        .await
        .map_err(|e| StoreError::query("static files of a function", e))?;
    Ok(Some(Package {
        bundle: bundle.get(0),
        static_files: files.iter().map(|row| (row.get(0), row.get(1))).collect(),
    }))
}

/// The number that rises with every change of what nodes serve.
///
/// # Errors
/// When the database cannot be reached.
pub async fn change_count(db: &Db) -> Result<i64, StoreError> {
    let client = db.get().await?;
    let row = client
        .query_one("select count from tramline.function_changes", &[])
        .await
        .map_err(|e| StoreError::query("changes of functions", e))?;
    Ok(row.get(0))
}

/// The twenty letters that name this project in the management API.
///
/// # Errors
/// When the database cannot be reached.
pub async fn project_ref(db: &Db) -> Result<String, StoreError> {
    let client = db.get().await?;
    let row = client
        .query_one(
            "select value #>> '{}' from tramline.settings where name = 'project_ref'",
            &[],
        )
        .await
        .map_err(|e| StoreError::query("name of the project", e))?;
    Ok(row.get(0))
}

fn version(row: &Row) -> VersionRow {
    VersionRow {
        name: row.get(0),
        version: row.get(1),
        is_active: row.get(2),
        sources_sha256: row.get(3),
        bundle_sha256: row.get(4),
        config: row.get(5),
        dependencies: row.get(6),
        created_by: row.get(7),
        created_at: row.get(8),
        first_at: row.get(9),
        active_at: row.get(10),
        has_static_files: row.get(11),
    }
}
