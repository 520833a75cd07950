//! Brings the database to what this binary and the project need.

use tramline_supabase::migrations::{self, MigrationReport};
use tramline_supabase::surface::{self, NewTables};

use super::project::Setup;
use crate::exit::{Done, Exit, OrExit as _};

/// The schemas `ops` and `tramline`.
pub async fn migrate(url: &str) -> Done {
    tramline_store::migrate(url).await.or_exit(Exit::Unavailable)?;
    Ok(())
}

/// The platform's schemas, then the project's migrations and seed. Functions and workflows are known by then: a seed
/// may start runs.
pub async fn migrate_project(url: &str, setup: &Setup, warnings: &mut Vec<String>) -> Done<MigrationReport> {
    let new_tables = if setup.project.config.api.auto_expose_new_tables {
        NewTables::Exposed
    } else {
        NewTables::Granted
    };
    let found = surface::install(url, new_tables)
        .await
        .or_exit(Exit::Unavailable)?;
    warnings.extend(found.iter().map(ToString::to_string));
    let report = migrations::run(url, &setup.project)
        .await
        .or_exit(Exit::Refused)?;
    warnings.extend(report.warnings.iter().map(ToString::to_string));
    Ok(report)
}
