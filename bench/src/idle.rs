//! What a node costs that has nothing to do.

use std::time::Duration;

use anyhow::Result;

use crate::cpu;
use crate::figures::{Figures, Sample, Side};
use crate::node::{Node, write_project};
use crate::postgres::Postgres;
use crate::sizes::Sizes;
use crate::{Place, Wanted, say};

/// Figures measured here.
pub const NAMES: &[&str] = &["idle-node-cpu", "idle-node-statements-per-second"];
/// Until a started node has done what it does once.
const REST: Duration = Duration::from_secs(5);
/// Statements shown, the most frequent ones.
const SHOWN: usize = 6;

/// Measures in turns, each with a node of all roles on a database of its own that logs every statement.
pub async fn measure(
    place: &Place,
    postgres: &Postgres,
    sizes: Sizes,
    wanted: Wanted<'_>,
    repeats: usize,
    figures: &mut Figures,
) -> Result<()> {
    let project = place.target.join("idle");
    write_project(&project, &[], "")?;
    let time = Duration::from_secs(sizes.idle_seconds);
    for turn in 1..=repeats {
        let url = postgres.fresh_tramline().await?;
        postgres.log_statements().await?;
        let node = Node::serve(place, &project, &url, "gateway,engine").await?;
        tokio::time::sleep(REST).await;
        let log = postgres.log_position()?;
        let used = || (cpu::family(node.pid), postgres.cpu());
        let before = used();
        tokio::time::sleep(time).await;
        let after = used();
        let statements = postgres.logged_statements(log)?;
        node.stop().await?;
        let percent = |from: f64, to: f64| (to - from) * 100.0 / time.as_secs_f64();
        let rate = statements.iter().map(|(count, _)| count).sum::<usize>() as f64 / time.as_secs_f64();
        let (node, server) = (percent(before.0, after.0), percent(before.1, after.1));
        say(&format!(
            "turn {turn} of {repeats}: an idle node takes {node:.2} % of a core, Postgres {server:.2} %, {rate:.1} statements/s"
        ));
        for (count, text) in statements.iter().take(SHOWN) {
            say(&format!("    {:.2}/s {text}", *count as f64 / time.as_secs_f64()));
        }
        for (name, value) in NAMES
            .iter()
            .zip([node, rate])
            .filter(|(name, _)| wanted.has(name))
        {
            figures.add(name, Side::Tramline, Sample::value(value));
        }
    }
    Ok(())
}
