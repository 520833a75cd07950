//! `tramline retention`.

use serde_json::Value;

use crate::cli::Global;
use crate::client::Client;
use crate::exit::Done;
use crate::output;

pub async fn retention(global: &Global, dry_run: bool) -> Done {
    let client = Client::find(global)?;
    let retention = match dry_run {
        true => client.get("/retention").await?,
        false => client.post("/retention", None).await?,
    };
    if global.json {
        output::json(&retention);
        return Ok(());
    }
    let list = |name: &str| retention[name].as_array().into_iter().flatten();
    let settings = list("settings")
        .map(|s| {
            vec![
                output::cell(&s["target"]),
                output::cell(&s["keep"]),
                output::cell(&s["source"]),
            ]
        })
        .collect();
    output::table(&["target", "kept for", "set by"], settings, "");
    output::line("");
    let days = list("days").map(|day| row(day, dry_run)).collect();
    output::table(
        &["day", "state", "expires", "runs", "mb", "unfinished"],
        days,
        "the ledger has no days yet",
    );
    for day in list("dropped") {
        output::line(&format!("dropped {}", output::cell(day)));
    }
    for day in list("busy") {
        output::line(&format!("{} is being read; it is tried again", output::cell(day)));
    }
    if let Some(rows) = retention["removed"].as_i64().filter(|rows| *rows > 0) {
        output::line(&format!("deleted {rows} old rows beside the days"));
    }
    Ok(())
}

fn row(day: &Value, dry_run: bool) -> Vec<String> {
    let state = match day["state"].as_str() {
        Some("expired") if dry_run => "would be dropped".to_owned(),
        _ => output::cell(&day["state"]),
    };
    let unfinished = match (day["unfinished"].as_i64(), &day["examples"][0]) {
        (Some(1..), example) => format!("{}, such as {}", day["unfinished"], output::cell(example)),
        _ => String::new(),
    };
    vec![
        output::cell(&day["day"]),
        state,
        output::time(&day["expires_at"]),
        output::cell(&day["runs"]),
        day["bytes"]
            .as_i64()
            .map(|bytes| (bytes >> 20).to_string())
            .unwrap_or_default(),
        unfinished,
    ]
}
