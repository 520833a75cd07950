//! Calendars: named days and times on which schedules are not due.

use std::collections::BTreeMap;
use std::sync::Arc;

use tramline_core::schedule::Calendar;

use crate::{Db, StoreError};

/// A calendar as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CalendarRow {
    pub name: String,
    pub entries: Vec<String>,
    pub timezone: Option<String>,
    pub source: String,
    /// Why owners cannot read it.
    pub problem: Option<String>,
}

/// All calendars by name.
///
/// # Errors
/// When the database cannot be reached.
pub async fn list(db: &Db) -> Result<Vec<CalendarRow>, StoreError> {
    let client = db.get().await?;
    let rows = client
        .query(
            "select name, entries, timezone, source, problem from tramline.calendars order by name",
            &[],
        )
        .await
        .map_err(|e| StoreError::query("list calendars", e))?;
    Ok(rows
        .iter()
        .map(|r| CalendarRow {
            name: r.get(0),
            entries: r.get(1),
            timezone: r.get(2),
            source: r.get(3),
            problem: r.get(4),
        })
        .collect())
}

/// Calendars that can be read, by name. One that cannot (only SQL can store it) gets its problem recorded, and schedules
/// that name it are not due.
///
/// # Errors
/// When the database cannot be reached.
pub async fn read(db: &Db) -> Result<BTreeMap<String, Arc<Calendar>>, StoreError> {
    let mut calendars = BTreeMap::new();
    for row in list(db).await? {
        match Calendar::parse(&row.entries, row.timezone.as_deref()) {
            Ok(calendar) => {
                calendars.insert(row.name, Arc::new(calendar));
            }
            Err(problems) => {
                let words: Vec<String> = problems.into_iter().map(|(_, message)| message).collect();
                set_problem(db, &row.name, &words.join("; ")).await?;
            }
        }
    }
    Ok(calendars)
}

async fn set_problem(db: &Db, name: &str, problem: &str) -> Result<(), StoreError> {
    let client = db.get().await?;
    client
        .execute(
            "update tramline.calendars set problem = $2 where name = $1 and problem is distinct from $2",
            &[&name, &problem],
        )
        .await
        .map_err(|e| StoreError::query("problem of a calendar", e))?;
    Ok(())
}

/// Creates or changes a calendar; true when something changed.
///
/// # Errors
/// When the database cannot be reached or refuses the name.
pub async fn store(
    db: &Db,
    name: &str,
    entries: &[String],
    timezone: Option<&str>,
    source: &str,
) -> Result<bool, StoreError> {
    let client = db.get().await?;
    let row = client
        .query_one(
            "select ops.set_calendar($1, $2, $3, $4)",
            &[&name, &entries, &timezone, &source],
        )
        .await
        .map_err(|e| StoreError::query("store calendar", e))?;
    Ok(row.get(0))
}

/// Removes a calendar; false when there is none of this name.
///
/// # Errors
/// When the database cannot be reached, or schedules name it.
pub async fn delete(db: &Db, name: &str, actor: &str) -> Result<bool, StoreError> {
    let client = db.get().await?;
    let row = client
        .query_one(
            "select ops.delete_calendar($1) from tramline.acts($2, null)",
            &[&name, &actor],
        )
        .await
        .map_err(|e| StoreError::query("delete calendar", e))?;
    Ok(row.get(0))
}

/// Removes the calendars that came from this kind of source and are not among these, unless a schedule names them.
///
/// # Errors
/// When the database cannot be reached.
pub async fn retain(db: &Db, source_prefix: &str, names: &[String]) -> Result<u64, StoreError> {
    let client = db.get().await?;
    client
        .execute(
            "delete from tramline.calendars c using tramline.acts('node', 'not declared any more')
              where starts_with(c.source, $1) and c.name <> all ($2)
                and not exists (select from tramline.schedules s where c.name = any (s.exclude))",
            &[&source_prefix, &names],
        )
        .await
        .map_err(|e| StoreError::query("retain calendars", e))
}
