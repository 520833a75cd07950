//! Who waits for whom: dependencies, ancestors, cycles.

use super::reader::{Problems, nearest};

/// What a step says about its place: nothing (it follows the step before), or the names it needs.
pub(super) struct Needs<'v> {
    pub(super) name: &'v str,
    /// Place and name of each entry; `None` without a `needs`.
    pub(super) needs: Option<Vec<(String, &'v str)>>,
}

/// Dependencies and ancestors of each step, by position.
#[derive(Debug)]
pub(super) struct Graph {
    pub(super) deps: Vec<Vec<usize>>,
    pub(super) ancestors: Vec<Vec<usize>>,
}

pub(super) fn build(steps: &[Needs<'_>], problems: &mut Problems) -> Graph {
    let deps: Vec<Vec<usize>> = steps
        .iter()
        .enumerate()
        .map(|(i, step)| match &step.needs {
            None => i.checked_sub(1).into_iter().collect(),
            Some(needs) => resolve(steps, needs, problems),
        })
        .collect();
    for cycle in cycles(&deps) {
        let names: Vec<&str> = cycle
            .iter()
            .chain(cycle.first())
            .map(|i| steps[*i].name)
            .collect();
        // reported where it is written: one of a cycle's steps has a `needs`, or it could not be one
        let at = cycle
            .iter()
            .copied()
            .find(|i| steps[*i].needs.is_some())
            .unwrap_or(cycle[0]);
        problems.add(
            &format!("steps[{at}].needs"),
            format!("the steps wait for each other: {}", names.join(" -> ")),
        );
    }
    let ancestors = (0..steps.len()).map(|i| ancestors_of(i, &deps)).collect();
    Graph { deps, ancestors }
}

fn resolve(steps: &[Needs<'_>], needs: &[(String, &str)], problems: &mut Problems) -> Vec<usize> {
    let mut found = Vec::with_capacity(needs.len());
    for (place, name) in needs {
        match steps.iter().position(|step| step.name == *name) {
            Some(position) if found.contains(&position) => {
                problems.add(place, format!("`{name}` is named twice"));
            }
            Some(position) => found.push(position),
            None => problems.add(place, no_such_step(name, steps.iter().map(|step| step.name))),
        }
    }
    found.sort_unstable();
    found
}

pub(super) fn no_such_step<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> String {
    match nearest(name, known) {
        Some(meant) => format!("there is no step `{name}`: did you mean `{meant}`?"),
        None => format!("there is no step `{name}`"),
    }
}

/// One cycle per group of steps that wait for each other, in the order of waiting.
fn cycles(deps: &[Vec<usize>]) -> Vec<Vec<usize>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let mut marks = vec![Mark::New; deps.len()];
    let mut cycles = Vec::new();
    for start in 0..deps.len() {
        if marks[start] != Mark::New {
            continue;
        }
        // an explicit stack: (step, next dependency to look at)
        let mut stack = vec![(start, 0)];
        marks[start] = Mark::Open;
        while let Some((step, next)) = stack.last_mut() {
            let Some(&dep) = deps[*step].get(*next) else {
                marks[*step] = Mark::Done;
                stack.pop();
                continue;
            };
            *next += 1;
            match marks[dep] {
                Mark::New => {
                    marks[dep] = Mark::Open;
                    stack.push((dep, 0));
                }
                Mark::Open => {
                    let from = stack.iter().position(|(step, _)| *step == dep).unwrap_or(0);
                    cycles.push(stack[from..].iter().map(|(step, _)| *step).collect());
                }
                Mark::Done => {}
            }
        }
    }
    cycles
}

fn ancestors_of(step: usize, deps: &[Vec<usize>]) -> Vec<usize> {
    let mut seen = vec![false; deps.len()];
    let mut open = deps[step].clone();
    while let Some(next) = open.pop() {
        if !seen[next] {
            seen[next] = true;
            open.extend(&deps[next]);
        }
    }
    (0..deps.len()).filter(|i| seen[*i]).collect()
}
