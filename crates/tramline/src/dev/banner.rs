//! What `dev` prints once it serves.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use super::postgres::Postgres;
use crate::node::project::Setup;
use crate::node::{Node, auth_name, functions};
use crate::output;

pub fn print(dir: &Path, setup: &Setup, node: &Node, postgres: &Postgres, took: Duration) {
    for warning in &node.warnings {
        output::note(&format!("warning: {warning}"));
    }
    for refusal in &node.published.refusals {
        output::note(&format!("refused: {refusal}"));
    }
    print_migrations(node);
    let url = node
        .gateway
        .as_ref()
        .map(|gateway| format!("http://{}", gateway.local_addr()))
        .unwrap_or_default();
    output::line(&format!(
        "tramline {} on {}\n",
        env!("CARGO_PKG_VERSION"),
        dir.display()
    ));
    output::pairs(&[
        ("  API", url.clone()),
        ("  functions", format!("{url}/functions/v1/<name>")),
        ("  REST", format!("{url}/rest/v1")),
        ("  runs", format!("{url}/api/v1/runs")),
        (
            "  database",
            format!("{} (PostgreSQL {})", postgres.url(), postgres.version()),
        ),
    ]);
    output::line("");
    let keys = &setup.keys;
    output::pairs(&[
        ("  anon key", keys.anon_key.clone()),
        ("  service role key", keys.service_role_key.clone()),
        ("  publishable key", keys.publishable_key.clone()),
        ("  secret key", keys.secret_key.clone()),
        ("  JWT secret", keys.jwt_secret.clone()),
    ]);
    print_functions(node);
    print_workflows(node);
    print_schedules(node);
    output::line(&format!("\nready in {:.1} s; Ctrl-C stops\n", took.as_secs_f64()));
}

fn print_migrations(node: &Node) {
    for file in &node.migrated.applied {
        output::note(&format!("applied {file}"));
    }
    for file in &node.migrated.seeded {
        output::note(&format!("seeded {file}"));
    }
}

fn print_functions(node: &Node) {
    output::line("");
    let rows = node
        .host
        .functions()
        .into_iter()
        .map(|info| {
            let auth = node
                .guards
                .get(&info.name)
                .and_then(|guard| auth_name(*guard))
                .unwrap_or_default();
            let (state, reason) = functions::state(info.state);
            vec![
                format!("  {}", info.name),
                auth,
                state.to_owned(),
                reason.unwrap_or_default(),
            ]
        })
        .collect();
    output::table(
        &["  function", "auth", "state", ""],
        rows,
        "  no functions in supabase/functions/",
    );
}

fn print_workflows(node: &Node) {
    if node.published.workflows.is_empty() {
        return;
    }
    output::line("");
    let rows = node
        .published
        .workflows
        .iter()
        .map(|(name, version, inputs)| vec![format!("  {name}"), version.to_string(), inputs.join(", ")])
        .collect();
    output::table(&["  workflow", "version", "required inputs"], rows, "");
}

fn print_schedules(node: &Node) {
    if node.published.schedules.is_empty() {
        return;
    }
    output::line("");
    let rows = node
        .published
        .schedules
        .iter()
        .map(|(row, next)| {
            let next = match (
                row.rule.paused,
                next.and_then(|at| Timestamp::from_millisecond(at).ok()),
            ) {
                (true, _) => "off".to_owned(),
                (false, next) => next.map(|at| at.to_string()).unwrap_or_default(),
            };
            vec![
                format!("  {}", row.rule.name),
                row.rule.spec.when_text(),
                row.rule.spec.timezone.clone(),
                row.target.clone(),
                output::time(&serde_json::Value::String(next)),
            ]
        })
        .collect();
    output::table(&["  schedule", "when", "zone", "target", "next"], rows, "");
}
