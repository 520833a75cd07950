//! How the ledger's days stand.

use tramline_core::schedule::duration_text;
use tramline_gateway::control::{ControlError, LedgerDay, Retention, RetentionSetting};
use tramline_store::retention;

use super::{NodeControl, convert};

impl NodeControl {
    pub(super) async fn ledger_days(&self, apply: bool) -> Result<Retention, ControlError> {
        let applied = match apply {
            true => retention::apply(self.db()).await.map_err(convert::error)?,
            false => retention::Applied::default(),
        };
        let settings = retention::settings(self.db()).await.map_err(convert::error)?;
        let days = retention::report(self.db()).await.map_err(convert::error)?;
        let words = |days: Vec<jiff::civil::Date>| days.iter().map(ToString::to_string).collect();
        Ok(Retention {
            settings: settings
                .into_iter()
                .map(|row| RetentionSetting {
                    target: row.target,
                    keep: duration_text(row.keep_seconds.saturating_mul(1_000)),
                    source: row.source,
                })
                .collect(),
            days: days
                .into_iter()
                .map(|row| LedgerDay {
                    day: row.day.to_string(),
                    state: row.state,
                    expires_at: row.expires_at.map(|at| at.as_millisecond()),
                    runs: row.runs,
                    bytes: row.bytes,
                    unfinished: row.unfinished,
                    examples: row.examples,
                })
                .collect(),
            dropped: words(applied.dropped),
            busy: words(applied.busy),
            removed: applied.removed,
        })
    }
}
