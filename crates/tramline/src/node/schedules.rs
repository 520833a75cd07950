//! Checking schedules and calendars against what exists, wherever they come from: files, HTTP.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;
use tramline_core::Millis;
use tramline_core::definition::Problem;
use tramline_core::schedule::{self, Calendar, Document, Due, Patterns, Spec};
use tramline_store::{Db, StoreError, api, calendars};

/// What schedules can refer to.
pub struct Known {
    targets: BTreeSet<String>,
    calendars: BTreeMap<String, Arc<Calendar>>,
}

impl Known {
    /// As it is in the database now.
    pub async fn read(db: &Db) -> Result<Self, StoreError> {
        let mut targets: BTreeSet<String> = api::list_functions(db)
            .await?
            .into_iter()
            .map(|f| f.name)
            .collect();
        targets.extend(api::list_workflows(db).await?.into_iter().map(|w| w.name));
        Ok(Self {
            targets,
            calendars: calendars::read(db).await?,
        })
    }

    /// Reads a schedule; everything that is wrong with it otherwise.
    pub fn check(&self, document: &Value, name: &str) -> Result<Document, Vec<Problem>> {
        let find = |name: &str| self.calendars.get(name).cloned();
        let read = schedule::read(document, Some(name), &find)?;
        if self.targets.contains(&read.target) {
            return Ok(read);
        }
        Err(vec![Problem {
            path: "target".to_owned(),
            message: format!("there is no function or workflow {:?}", read.target),
        }])
    }

    /// The spec, to be asked; `None` when it cannot be read.
    pub fn due(&self, spec: &Spec) -> Option<Due> {
        Due::of(
            spec,
            &|name| self.calendars.get(name).cloned(),
            &mut Patterns::default(),
        )
        .ok()
    }

    /// When it is due next.
    pub fn next_due(&self, spec: &Spec, now: Millis) -> Option<Millis> {
        self.due(spec)?.next_after(now)
    }
}
