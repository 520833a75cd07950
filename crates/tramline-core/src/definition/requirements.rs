//! What a definition needs from its input, and whether the steps it reads exist.

use super::graph::no_such_step;
use super::reader::Problems;
use super::{Step, StepKind};
use crate::expr::{NameKind, NameUse};

/// Every name a step reads, with its place; `certain` when each execution of the step reads it.
fn reads(step: &Step) -> Vec<(&str, NameUse, bool)> {
    let condition = step.when.iter().flat_map(|expr| {
        expr.names()
            .into_iter()
            .map(move |name| (expr.place(), name, true))
    });
    // a step with a condition may be skipped: what only its payload reads is not certain
    let certain = step.when.is_none();
    let template = step
        .kind
        .template()
        .names()
        .into_iter()
        .map(move |(place, name)| (place, name, certain));
    condition.chain(template).collect()
}

/// The flat names that every run reads before any function step could have provided them, in the order of first use.
pub(super) fn derived_inputs(steps: &[Step]) -> Vec<String> {
    let mut names = Vec::new();
    let is_function = |i: &usize| matches!(steps[*i].kind, StepKind::Function { .. });
    for step in steps
        .iter()
        .filter(|step| !step.ancestors.iter().any(is_function))
    {
        for (_, name, certain) in reads(step) {
            if let NameUse {
                kind: NameKind::Flat(flat),
                needed: true,
            } = name
                && certain
                && !names.contains(&flat)
            {
                names.push(flat);
            }
        }
    }
    names
}

/// Refuses references to steps that do not exist.
pub(super) fn check_step_references(steps: &[Step], problems: &mut Problems) {
    for step in steps {
        for (place, name, _) in reads(step) {
            if let NameKind::Step(target) = &name.kind
                && !steps.iter().any(|other| other.name == *target)
            {
                let mut message = no_such_step(target, steps.iter().map(|step| step.name.as_str()));
                if steps
                    .iter()
                    .any(|other| other.name.starts_with(&format!("{target}-")))
                {
                    message.push_str("; a name with a dash is written steps[\"a-b\"] inside an expression");
                }
                problems.add(place, message);
            }
        }
    }
}
