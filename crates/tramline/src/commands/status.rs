//! `tramline status`.

use crate::cli::Global;
use crate::client::Client;
use crate::exit::Done;
use crate::output;

pub async fn status(global: &Global) -> Done {
    let client = Client::find(global)?;
    let status = client.get("/status").await?;
    if global.json {
        output::json(&status);
        return Ok(());
    }
    let owned = status["shards_owned"].as_array().map_or(0, Vec::len);
    let uptime = status["uptime_ms"].as_i64().unwrap_or_default();
    output::pairs(&[
        ("node", output::cell(&status["node"])),
        ("version", output::cell(&status["version"])),
        ("url", client.url().to_owned()),
        (
            "process",
            client.dev().map(|dev| dev.pid.to_string()).unwrap_or_default(),
        ),
        ("up for", output::millis(uptime)),
        ("shards", format!("{owned} of {}", status["shard_count"])),
    ]);
    if let Some(counts) = status["counts"].as_object().filter(|counts| !counts.is_empty()) {
        output::line("");
        let rows = counts
            .iter()
            .map(|(name, count)| vec![name.replace('_', " "), count.to_string()])
            .collect();
        output::table(&["what", "count"], rows, "");
    }
    Ok(())
}
