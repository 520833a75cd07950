//! Migrations of tramline's own schema: forward only, each in one transaction, under a lock, once.

use sha2::{Digest, Sha256};
use tokio_postgres::Client;

use crate::db::LOCK_TIMEOUT;
use crate::tidy::PARTITIONS_AHEAD;
use crate::{Db, StoreError};

/// Shards of a new installation: enough for 16 nodes, few enough that a node's flush touches few rows.
pub const SHARD_COUNT: u16 = 16;

/// Key of the advisory lock under which one node at a time migrates ("tram").
const LOCK_KEY: i64 = 0x7472_616d;

const MIGRATIONS: &[(&str, &str)] = &[
    (
        "0001_roles_and_auth",
        include_str!("../migrations/0001_roles_and_auth.sql"),
    ),
    (
        "0002_ids_and_partitions",
        include_str!("../migrations/0002_ids_and_partitions.sql"),
    ),
    (
        "0003_ledger_tables",
        include_str!("../migrations/0003_ledger_tables.sql"),
    ),
    (
        "0004_engine_tables",
        include_str!("../migrations/0004_engine_tables.sql"),
    ),
    ("0005_enqueue", include_str!("../migrations/0005_enqueue.sql")),
    ("0006_ops_views", include_str!("../migrations/0006_ops_views.sql")),
    ("0007_flush", include_str!("../migrations/0007_flush.sql")),
    (
        "0008_definitions_and_schedules",
        include_str!("../migrations/0008_definitions_and_schedules.sql"),
    ),
    ("0009_queues", include_str!("../migrations/0009_queues.sql")),
    (
        "0010_pull_queues",
        include_str!("../migrations/0010_pull_queues.sql"),
    ),
    ("0011_limits", include_str!("../migrations/0011_limits.sql")),
    (
        "0012_operations",
        include_str!("../migrations/0012_operations.sql"),
    ),
    ("0013_reasons", include_str!("../migrations/0013_reasons.sql")),
    ("0014_schedules", include_str!("../migrations/0014_schedules.sql")),
    ("0015_retention", include_str!("../migrations/0015_retention.sql")),
    ("0016_lists", include_str!("../migrations/0016_lists.sql")),
    (
        "0017_signed_links",
        include_str!("../migrations/0017_signed_links.sql"),
    ),
    (
        "0018_pull_requests",
        include_str!("../migrations/0018_pull_requests.sql"),
    ),
    ("0019_workers", include_str!("../migrations/0019_workers.sql")),
    // After all whose tables it names; those that follow bring their own.
    (
        "0020_grants_and_policies",
        include_str!("../migrations/0020_grants_and_policies.sql"),
    ),
    (
        "0021_function_versions",
        include_str!("../migrations/0021_function_versions.sql"),
    ),
    (
        "0022_idempotency",
        include_str!("../migrations/0022_idempotency.sql"),
    ),
];

/// What a migration run did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrateReport {
    /// Names of the migrations applied now.
    pub applied: Vec<&'static str>,
    /// Schema version afterwards.
    pub version: i32,
}

/// Brings the database at `url` to the schema of this binary. Needs CREATEROLE, no superuser, no extension.
///
/// # Errors
/// When the database cannot be reached, is newer than this binary, or refuses a statement; nothing is half-applied.
pub async fn migrate(url: &str) -> Result<MigrateReport, StoreError> {
    let db = Db::new(url, 1)?;
    let mut client = db.dedicated("migrate", "5min").await?;
    migrate_with(&mut client, MIGRATIONS).await
}

async fn migrate_with(
    client: &mut Client,
    migrations: &[(&'static str, &'static str)],
) -> Result<MigrateReport, StoreError> {
    let query = |source| StoreError::query("migrations", source);
    // Another node may be in the middle of it; what holds a table otherwise is waited for as shortly as everywhere.
    client
        .batch_execute("set lock_timeout = 0")
        .await
        .map_err(query)?;
    client
        .execute("select pg_advisory_lock($1)", &[&LOCK_KEY])
        .await
        .map_err(query)?;
    client
        .batch_execute(&format!("set lock_timeout = '{LOCK_TIMEOUT}'"))
        .await
        .map_err(query)?;
    client
        .batch_execute(
            "create schema if not exists tramline;
             create table if not exists tramline.migrations (
               version int primary key, name text not null, checksum text, applied_at timestamptz not null default now());
             alter table tramline.migrations add column if not exists checksum text",
        )
        .await
        .map_err(query)?;
    let found = check_applied(client, migrations).await?;
    let known = i32::try_from(migrations.len()).unwrap_or(i32::MAX);
    let mut applied = Vec::new();
    for (version, (name, sql)) in (1i32..).zip(migrations).skip(usize::try_from(found).unwrap_or(0)) {
        let sql_as_shipped = sql;
        let sql = sql.replace("{{shard_count}}", &SHARD_COUNT.to_string());
        let tx = client.transaction().await.map_err(query)?;
        tx.batch_execute(&sql).await.map_err(|e| StoreError::Migration {
            name,
            message: describe(&e, &sql),
        })?;
        tx.execute(
            "insert into tramline.migrations (version, name, checksum) values ($1, $2, $3)",
            &[&version, name, &checksum(sql_as_shipped)],
        )
        .await
        .map_err(query)?;
        tx.commit().await.map_err(query)?;
        applied.push(*name);
    }
    // A database that was left alone for days has no partitions for now: nothing may run before they are there.
    client.execute(PARTITIONS_AHEAD, &[]).await.map_err(query)?;
    client
        .execute("select pg_advisory_unlock($1)", &[&LOCK_KEY])
        .await
        .map_err(query)?;
    Ok(MigrateReport {
        applied,
        version: known,
    })
}

/// The version that the database has; refused when it was not made by the migrations that this binary knows.
async fn check_applied(
    client: &Client,
    migrations: &[(&'static str, &'static str)],
) -> Result<i32, StoreError> {
    let rows = client
        .query(
            "select version, name, checksum from tramline.migrations order by version",
            &[],
        )
        .await
        .map_err(|e| StoreError::query("migrations", e))?;
    let known = i32::try_from(migrations.len()).unwrap_or(i32::MAX);
    let found = rows.last().map_or(0, |row| row.get(0));
    if found > known {
        return Err(StoreError::NewerSchema { found, known });
    }
    for (row, (name, sql)) in rows.iter().zip(migrations) {
        let (applied, sum): (String, Option<String>) = (row.get(1), row.get(2));
        if applied != *name || sum.as_deref() != Some(&checksum(sql)) {
            return Err(StoreError::ChangedSchema { name: applied });
        }
    }
    Ok(found)
}

fn checksum(sql: &str) -> String {
    hex::encode(Sha256::digest(sql))
}

/// The database's words with the line they are about.
fn describe(error: &tokio_postgres::Error, sql: &str) -> String {
    let Some(db) = error.as_db_error() else {
        return error.to_string();
    };
    let line = match db.position() {
        Some(tokio_postgres::error::ErrorPosition::Original(at)) => {
            let upto: String = sql.chars().take(*at as usize).collect();
            format!("line {}: ", upto.matches('\n').count() + 1)
        }
        _ => String::new(),
    };
    format!(
        "{line}{}{}",
        db.message(),
        db.detail().map(|d| format!(" ({d})")).unwrap_or_default()
    )
}

/// Refuses a server that may lose what it acknowledged.
///
/// # Errors
/// [`StoreError::NotDurable`] naming the setting.
pub async fn check_durable(db: &Db) -> Result<(), StoreError> {
    let client = db.get().await?;
    let settings = ["fsync", "full_page_writes", "synchronous_commit"].map(str::to_owned);
    let off = client
        .query_opt(
            "select s from unnest($1::text[]) s where current_setting(s) = 'off' limit 1",
            &[&settings.as_slice()],
        )
        .await
        .map_err(|e| StoreError::query("settings", e))?;
    if let Some(row) = off {
        return Err(StoreError::NotDurable { setting: row.get(0) });
    }
    Ok(())
}
