//! A host that knows many functions.

use std::path::Path;

use anyhow::{Context as _, Result};
use tramline_host::{FunctionSpec, Policy};

use crate::child::{self, Part};
use crate::figures::{Figures, Sample, Side};
use crate::hosting::{self, HELLO};
use crate::{Place, Wanted, say};

/// Figures measured here.
pub const NAMES: &[&str] = &["host-200-functions-start", "host-200-functions-memory"];
const FUNCTIONS: usize = 200;

/// Measures in turns; the first start, which is not counted, makes the bundles.
pub async fn measure(place: &Place, wanted: Wanted<'_>, repeats: usize, figures: &mut Figures) -> Result<()> {
    let project = place.target.join("many-functions");
    std::fs::create_dir_all(&project).with_context(|| format!("make {}", project.display()))?;
    let project = project.to_str().context("the target folder has a strange name")?;
    say(&format!("{FUNCTIONS} functions: making what is not there yet"));
    for turn in 0..=repeats {
        let found = child::run(Part::Host, project, FUNCTIONS).await?;
        if turn == 0 {
            continue;
        }
        say(&format!(
            "turn {turn} of {repeats}: {FUNCTIONS} functions known after {:.0} ms, {:.0} MB ({:.0} MB before)",
            found.took_ms, found.resident_mb, found.empty_mb
        ));
        for (name, value) in NAMES.iter().zip([found.took_ms, found.resident_mb]) {
            if wanted.has(name) {
                figures.add(name, Side::Tramline, Sample::value(value));
            }
        }
    }
    Ok(())
}

/// Functions that say hello.
pub fn specs(project: &Path, count: usize) -> Result<Vec<FunctionSpec>> {
    (0..count)
        .map(|number| hosting::function(project, &format!("hello-{number}"), HELLO, Policy::PerWorker))
        .collect()
}
