//! The example of the README: migrations, seed, a workflow that waits, cron functions.

use serde_json::json;

use crate::support::{Project, repository, text};

#[test]
fn the_crm_runs_its_workflow_and_its_cron_functions() {
    let project = Project::example("crm");
    let mut dev = project.dev();
    dev.wait_for("seeded supabase/seed.sql");
    for name in ["messages", "send-email", "check-overdue-tasks"] {
        dev.wait_for(&format!("function {name} is ready"));
    }
    let input = json!({
        "proposal_id": "70000000-0000-4000-8000-000000000001",
        "guest_id": "30000000-0000-4000-8000-000000000001",
        "host_id": "10000000-0000-4000-8000-000000000002",
        "listing_id": "50000000-0000-4000-8000-000000000001",
        "status": "sent", "host_email": "user2@crm.example", "guest_name": "Ada", "listing_name": "Cabin",
        "reminder_delay": "1s",
    });
    let input = input.to_string();
    let said = project.say(&[
        "run",
        "start",
        "proposal-created",
        "--input",
        &input,
        "--wait",
        "--json",
    ]);
    let run = said.ended(0).json();
    let shown = project
        .say(&["run", "show", run["run_id"].as_str().unwrap(), "--json"])
        .ended(0)
        .json();
    let steps: Vec<_> = shown["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["name"].as_str().unwrap())
        .collect();
    assert_eq!(steps, ["create_thread", "notify_host", "remind", "send_reminder"]);

    let triggered = project
        .say(&["run", "start", "check-overdue-tasks", "--wait", "--json"])
        .ended(0)
        .json();
    assert!(
        triggered["output"]["overdue"].as_i64().unwrap() > 0,
        "{triggered}"
    );

    // the definition of a team without reminders publishes as it is
    let fixture = repository().join("examples/crm/fixtures/proposal-created.json");
    let said = project.say(&["workflow", "publish", text(&fixture)]).ended(0);
    assert!(said.out.contains("proposal-created version 2"), "{said:?}");
    let before = runs(&project);
    dev.stop();

    // a restart starts nothing that is not due
    let dev = project.dev();
    let due = runs(&project)
        .into_iter()
        .filter(|run| !before.contains(run))
        .count();
    assert!(due <= 3, "{due} runs were started by a restart");
    dev.stop();
}

fn runs(project: &Project) -> Vec<String> {
    let list = project
        .say(&["run", "list", "--limit", "500", "--json"])
        .ended(0)
        .json();
    list.as_array()
        .unwrap()
        .iter()
        .map(|run| run["run_id"].to_string())
        .collect()
}
