//! Changing one run, or all that match: first shown, then asked, then done page by page.

use serde_json::{Map, Value, json};

use crate::cli::{ActArgs, Global, ManyArgs};
use crate::client::{Client, segment};
use crate::exit::{Done, Exit, Failure};
use crate::{output, progress};

/// Runs changed by one request: an answer comes within a second.
const PER_REQUEST: i32 = 1_000;

/// `run cancel|pause|resume|retry`.
pub async fn act(global: &Global, client: &Client, verb: &str, args: ActArgs) -> Done {
    if let Some(id) = &args.id {
        let body = args.reason.as_ref().map(|reason| json!({ "reason": reason }));
        let path = format!("/runs/{}/{verb}", segment(id));
        let run = client.post(&path, body.as_ref()).await?;
        if global.json {
            output::json(&run);
        } else {
            let (id, status) = (output::cell(&run["run_id"]), output::cell(&run["status"]));
            output::line(&format!("{id} {status}"));
        }
        return Ok(());
    }
    let mut filter = filter(&args.many)?;
    if !args.status.is_empty() {
        filter.insert("status".into(), json!(args.status));
    }
    let request = json!({ "verb": verb, "filter": filter, "reason": args.reason, "limit": PER_REQUEST });
    let bulk = Bulk {
        path: "/runs/bulk",
        verb,
        what: "runs",
        request,
    };
    bulk.run(global, client, &args.many).await
}

/// A change of all that match.
pub struct Bulk<'a> {
    pub path: &'static str,
    pub verb: &'a str,
    /// In the plural.
    pub what: &'static str,
    /// Everything but `dry_run` and `after`.
    pub request: Value,
}

/// What a bulk change came to, over all its pages.
#[derive(Default)]
struct Sum {
    matched: u64,
    applied: u64,
    refused: Vec<Value>,
    runs: Vec<Value>,
}

impl Bulk<'_> {
    pub async fn run(&self, global: &Global, client: &Client, many: &ManyArgs) -> Done {
        let found = self.pages(client, true).await?;
        if found.matched == 0 {
            return Err(Failure::new(
                Exit::NotFound,
                format!("no {} match: there is nothing to {}", self.what, self.verb),
            ));
        }
        if many.dry_run {
            self.show(global, &found, true);
            return Ok(());
        }
        if !many.yes {
            if !global.json {
                self.show(global, &found, true);
            }
            let question = format!("{} {} {}?", self.verb, found.matched, self.what);
            progress::confirm_act(&question)?;
        }
        let done = self.pages(client, false).await?;
        self.show(global, &done, false);
        if done.applied == 0 {
            return Err(Failure::new(Exit::Refused, "every one of them refused"));
        }
        Ok(())
    }

    async fn pages(&self, client: &Client, dry_run: bool) -> Done<Sum> {
        let mut sum = Sum::default();
        let mut request = self.request.clone();
        request["dry_run"] = json!(dry_run);
        loop {
            let mut answer = client.post(self.path, Some(&request)).await?;
            let list = |value: Value| match value {
                Value::Array(items) => items,
                _ => Vec::new(),
            };
            sum.matched += answer["matched"].as_u64().unwrap_or(0);
            sum.applied += answer["applied"].as_u64().unwrap_or(0);
            sum.refused.extend(list(answer["refused"].take()));
            if sum.runs.is_empty() {
                sum.runs = list(answer["runs"].take());
            }
            if answer["next"].is_null() {
                return Ok(sum);
            }
            request["after"] = answer["next"].take();
        }
    }

    fn show(&self, global: &Global, sum: &Sum, dry_run: bool) {
        if global.json {
            output::json(
                &json!({ "verb": self.verb, "dry_run": dry_run, "matched": sum.matched, "applied": sum.applied,
                                  "refused": sum.refused, "runs": sum.runs }),
            );
            return;
        }
        if dry_run {
            let rows = sum.runs.iter().map(row).collect();
            output::table(&["run", "target", "state", "since"], rows, "");
            let more = sum.matched.saturating_sub(sum.runs.len() as u64);
            let more = if more > 0 {
                format!(", of which {more} are not shown")
            } else {
                String::new()
            };
            output::line(&format!("{} {} match{more}", sum.matched, self.what));
            return;
        }
        output::line(&format!(
            "asked to {} {} {}; each answers in its own events",
            self.verb, sum.applied, self.what
        ));
        for refused in &sum.refused {
            output::note(&format!(
                "{} {}",
                output::cell(&refused["run_id"]),
                output::cell(&refused["message"])
            ));
        }
    }
}

fn row(run: &Value) -> Vec<String> {
    let first = |names: [&str; 2]| {
        let value = names
            .into_iter()
            .map(|name| &run[name])
            .find(|value| !value.is_null());
        value.cloned().unwrap_or_default()
    };
    vec![
        output::cell(&run["run_id"]),
        output::cell(&run["target"]),
        output::cell(&first(["status", "reason"])),
        output::time(&first(["queued_at", "created_at"])),
    ]
}

/// The filter that conditions on the command line mean. Keys are checked by the node, which knows them.
pub fn filter(many: &ManyArgs) -> Done<Map<String, Value>> {
    let mut filter = Map::new();
    for condition in &many.conditions {
        let Some((key, value)) = condition.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            return Err(Failure::new(
                Exit::Usage,
                format!("failed to read --where {condition:?}: write it as key=value"),
            ));
        };
        if let Some(name) = key.strip_prefix("metadata.") {
            // what reads as JSON is meant so: numbers, true, objects; the rest is text
            let value = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
            let metadata = filter.entry("metadata").or_insert_with(|| json!({}));
            metadata[name] = value;
            continue;
        }
        match key {
            "since" | "until" => drop(filter.insert(key.to_owned(), json!(instant(value)))),
            "correlation_prefix" => drop(filter.insert(key.to_owned(), json!(value))),
            _ => match filter.entry(key).or_insert_with(|| json!([])) {
                Value::Array(values) => values.push(json!(value)),
                other => *other = json!([value]),
            },
        }
    }
    if many.all {
        filter.insert("all".into(), json!(true));
    }
    Ok(filter)
}

/// `2h` is two hours ago; anything else is left to the node, which names what it does not understand.
fn instant(text: &str) -> String {
    let ago = tramline_core::definition::parse_duration(text).ok();
    let span = ago.and_then(|ms| i64::try_from(ms).ok());
    span.and_then(|ms| {
        jiff::Timestamp::now()
            .checked_sub(jiff::SignedDuration::from_millis(ms))
            .ok()
    })
    .map_or_else(|| text.to_owned(), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn many(conditions: &[&str], all: bool) -> ManyArgs {
        ManyArgs {
            conditions: conditions.iter().map(|c| (*c).to_owned()).collect(),
            all,
            dry_run: false,
            yes: false,
        }
    }

    #[test]
    fn conditions_become_a_filter() {
        let args = many(
            &[
                "target=a",
                "target=b",
                "metadata.tenant=acme",
                "metadata.n=1",
                "correlation_prefix=o=1",
            ],
            false,
        );
        assert_eq!(
            Value::from(filter(&args).unwrap()),
            json!({ "target": ["a", "b"], "metadata": { "tenant": "acme", "n": 1 }, "correlation_prefix": "o=1" })
        );
        assert_eq!(
            Value::from(filter(&many(&[], true)).unwrap()),
            json!({ "all": true })
        );
        for bad in ["target", "=x"] {
            assert_eq!(filter(&many(&[bad], false)).unwrap_err().exit, Exit::Usage);
        }
    }

    #[test]
    fn lengths_of_time_are_ago() {
        let at: jiff::Timestamp = instant("2h").parse().unwrap();
        let ago = jiff::Timestamp::now().duration_since(at);
        assert_eq!(ago.as_hours(), 2);
        assert_eq!(instant("2026-01-31T12:00:00Z"), "2026-01-31T12:00:00Z");
    }
}
