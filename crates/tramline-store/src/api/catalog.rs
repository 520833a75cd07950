//! Definitions and functions: what runs can name as their target.

use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::Json;
use tramline_core::limit::Limit;

use crate::{Db, StoreError};

/// A version of a workflow.
#[derive(Debug, Clone)]
pub struct WorkflowRow {
    pub name: String,
    pub version: i32,
    pub status: String,
    pub checksum: Option<String>,
    pub required_inputs: Vec<String>,
    pub problems: Option<Value>,
    pub created_at: Timestamp,
    pub definition: Value,
}

/// A version that was stored or found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredVersion {
    pub version: i32,
    /// False when the published definition was equal.
    pub created: bool,
}

/// A function that can be called.
#[derive(Debug, Clone)]
pub struct FunctionRow {
    pub name: String,
    /// `edge`, or `handler` for one in a node's own process.
    pub kind: String,
    pub version: Option<String>,
    pub auth: Option<String>,
    /// `pending`, `bundling`, `ready` or `broken`.
    pub state: String,
    pub reason: Option<String>,
}

const WORKFLOW: &str = "name, version, status, checksum, required_inputs, problems, created_at, definition";

fn workflow_row(r: &Row) -> WorkflowRow {
    WorkflowRow {
        name: r.get(0),
        version: r.get(1),
        status: r.get(2),
        checksum: r.get(3),
        required_inputs: r.get(4),
        problems: r.get(5),
        created_at: r.get(6),
        definition: r.get(7),
    }
}

/// What compiling a definition gave.
#[derive(Debug, Clone, Copy)]
pub struct Compiled<'a> {
    pub checksum: &'a str,
    pub required_inputs: &'a [String],
    /// The limit that it declares; `None` takes back what the version before declared.
    pub limit: Option<&'a Limit>,
}

/// Stores a compiled definition as the next version, and in the same transaction its limit; an equal one makes none.
///
/// # Errors
/// Refused with `TL400` where the limit cannot be kept exactly; or the database cannot be reached.
pub async fn publish_definition(
    db: &Db,
    name: &str,
    definition: &Value,
    compiled: &Compiled<'_>,
    by: Option<&str>,
) -> Result<StoredVersion, StoreError> {
    let client = db.get().await?;
    let row = client
        .query_one(
            "select version, created from tramline.publish_definition($1, $2, $3, $4, $5, $6)",
            &[
                &name,
                definition,
                &compiled.checksum,
                &compiled.required_inputs,
                &by,
                &compiled.limit.map(Json),
            ],
        )
        .await
        .map_err(|e| StoreError::query("publish definition", e))?;
    Ok(StoredVersion {
        version: row.get(0),
        created: row.get(1),
    })
}

/// The same beside whatever limit its name has: for definitions that declare none.
///
/// # Errors
/// When the database cannot be reached.
pub async fn store_definition(
    db: &Db,
    name: &str,
    definition: &Value,
    checksum: &str,
    required_inputs: &[String],
    by: Option<&str>,
) -> Result<StoredVersion, StoreError> {
    let client = db.get().await?;
    let row = client
        .query_one(
            "select version, created from tramline.store_definition($1, $2, $3, $4, $5)",
            &[&name, definition, &checksum, &required_inputs, &by],
        )
        .await
        .map_err(|e| StoreError::query("store definition", e))?;
    Ok(StoredVersion {
        version: row.get(0),
        created: row.get(1),
    })
}

/// Definitions that were inserted by SQL and wait for a node to compile them.
///
/// # Errors
/// When the database cannot be reached.
pub async fn submitted_definitions(db: &Db) -> Result<Vec<WorkflowRow>, StoreError> {
    let client = db.get().await?;
    let rows = client
        .query(
            &format!(
                "select {WORKFLOW} from tramline.workflow_definitions where status = 'submitted' order by created_at limit 100"
            ),
            &[],
        )
        .await
        .map_err(|e| StoreError::query("submitted definitions", e))?;
    Ok(rows.iter().map(workflow_row).collect())
}

/// Publishes a submitted version together with its limit, or refuses it with the places. Guarded by its status: two nodes may try.
///
/// # Errors
/// Refused with `TL400` where the limit cannot be kept exactly; or the database cannot be reached.
pub async fn settle_definition(
    db: &Db,
    name: &str,
    version: i32,
    outcome: Result<Compiled<'_>, &Value>,
) -> Result<(), StoreError> {
    let client = db.get().await?;
    let done = match outcome {
        Ok(compiled) => {
            let limit = compiled.limit.map(Json);
            client
                .execute(
                    "select tramline.publish_submitted($1, $2, $3, $4, $5)",
                    &[
                        &name,
                        &version,
                        &compiled.checksum,
                        &compiled.required_inputs,
                        &limit,
                    ],
                )
                .await
        }
        Err(problems) => {
            client
                .execute(
                    "update tramline.workflow_definitions set status = 'refused', problems = $3
                      where name = $1 and version = $2 and status = 'submitted'",
                    &[&name, &version, problems],
                )
                .await
        }
    };
    done.map(|_| ())
        .map_err(|e| StoreError::query("settle definition", e))
}

/// The newest published version of every workflow.
///
/// # Errors
/// When the database cannot be reached.
pub async fn list_workflows(db: &Db) -> Result<Vec<WorkflowRow>, StoreError> {
    let client = db.get().await?;
    let rows = client
        .query(
            &format!(
                "select distinct on (name) {WORKFLOW} from tramline.workflow_definitions where status in ('published', 'refused', 'submitted')
                  order by name, status = 'published' desc, version desc"
            ),
            &[],
        )
        .await
        .map_err(|e| StoreError::query("list workflows", e))?;
    Ok(rows.iter().map(workflow_row).collect())
}

/// One version of a workflow, or its newest published one.
///
/// # Errors
/// When the database cannot be reached.
pub async fn workflow(db: &Db, name: &str, version: Option<i32>) -> Result<Option<WorkflowRow>, StoreError> {
    let client = db.get().await?;
    let row = client
        .query_opt(
            &format!(
                "select {WORKFLOW} from tramline.workflow_definitions
                  where name = $1 and (version = $2 or $2 is null) order by status = 'published' desc, version desc limit 1"
            ),
            &[&name, &version],
        )
        .await
        .map_err(|e| StoreError::query("get workflow", e))?;
    Ok(row.as_ref().map(workflow_row))
}

/// Makes functions known as targets, or updates what is known of them.
///
/// # Errors
/// When the database cannot be reached.
pub async fn register_functions(db: &Db, functions: &[FunctionRow]) -> Result<(), StoreError> {
    let client = db.get().await?;
    let column = |f: fn(&FunctionRow) -> Option<&str>| functions.iter().map(f).collect::<Vec<_>>();
    client
        .execute(
            "insert into tramline.functions as f (name, kind, version, auth, state, reason)
             select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[])
             on conflict (name) do update set kind = excluded.kind, version = excluded.version, auth = excluded.auth,
                    state = excluded.state, reason = excluded.reason, updated_at = now()
              where (f.kind, f.version, f.auth, f.state, f.reason) is distinct from
                    (excluded.kind, excluded.version, excluded.auth, excluded.state, excluded.reason)",
            &[
                &column(|f| Some(&f.name)),
                &column(|f| Some(&f.kind)),
                &column(|f| f.version.as_deref()),
                &column(|f| f.auth.as_deref()),
                &column(|f| Some(&f.state)),
                &column(|f| f.reason.as_deref()),
            ],
        )
        .await
        .map_err(|e| StoreError::query("register functions", e))?;
    Ok(())
}

/// What a function's runs are promised.
#[derive(Debug, Clone, Default)]
pub struct FunctionPolicy {
    pub name: String,
    /// The object `retry`; none means that nothing is retried.
    pub retry: Option<Value>,
    /// How long its correlation ids hold, in milliseconds; none means 30 days.
    pub retention_ms: Option<u64>,
}

/// Stores what the runs of known functions are promised from now on; runs that were accepted keep what they have.
///
/// # Errors
/// When the database cannot be reached.
pub async fn set_function_policies(db: &Db, policies: &[FunctionPolicy]) -> Result<(), StoreError> {
    let client = db.get().await?;
    let names: Vec<&str> = policies.iter().map(|p| p.name.as_str()).collect();
    let retries: Vec<Option<&Value>> = policies.iter().map(|p| p.retry.as_ref()).collect();
    let retentions: Vec<Option<i64>> = policies
        .iter()
        .map(|p| p.retention_ms.and_then(|ms| i64::try_from(ms).ok()))
        .collect();
    client
        .execute(
            "update tramline.functions f set retry = u.retry, retention = u.retention * interval '1 ms', updated_at = now()
               from unnest($1::text[], $2::jsonb[], $3::bigint[]) as u(name, retry, retention)
              where f.name = u.name and (f.retry, f.retention) is distinct from (u.retry, u.retention * interval '1 ms')",
            &[&names, &retries, &retentions],
        )
        .await
        .map_err(|e| StoreError::query("set function policies", e))?;
    Ok(())
}

/// Forgets the edge functions that are not among these; handlers of programs are theirs to keep, and what is deployed is served
/// by every node.
///
/// # Errors
/// When the database cannot be reached.
pub async fn retain_functions(db: &Db, names: &[String]) -> Result<(), StoreError> {
    let client = db.get().await?;
    client
        .execute(
            "delete from tramline.functions where kind = 'edge' and name <> all ($1)
                and name not in (select a.name from tramline.active_functions a)",
            &[&names],
        )
        .await
        .map_err(|e| StoreError::query("retain functions", e))?;
    Ok(())
}

/// All known functions by name.
///
/// # Errors
/// When the database cannot be reached.
pub async fn list_functions(db: &Db) -> Result<Vec<FunctionRow>, StoreError> {
    let client = db.get().await?;
    let rows = client
        .query(
            "select name, kind, version, auth, state, reason from tramline.functions order by name",
            &[],
        )
        .await
        .map_err(|e| StoreError::query("list functions", e))?;
    Ok(rows
        .iter()
        .map(|r| FunctionRow {
            name: r.get(0),
            kind: r.get(1),
            version: r.get(2),
            auth: r.get(3),
            state: r.get(4),
            reason: r.get(5),
        })
        .collect())
}
