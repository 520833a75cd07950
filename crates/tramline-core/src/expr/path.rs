//! Dotted names: parsed without CEL and read straight from the JSON.

use std::fmt;

use serde_json::Value;

use super::{NameKind, Scope, StepView};
use crate::status::StepStatus;

/// A value found in the scope, or made for the question (a status, a view of all steps).
#[derive(Debug)]
pub(crate) enum Found<'a> {
    Borrowed(&'a Value),
    Made(Value),
}

impl Found<'_> {
    pub(crate) fn as_ref(&self) -> &Value {
        match self {
            Found::Borrowed(value) => value,
            Found::Made(value) => value,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Root {
    Input,
    Run,
    Steps,
    Step(String),
    Flat(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Segment {
    Key(String),
    Index(usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) root: Root,
    pub(crate) segments: Vec<Segment>,
}

/// Words that CEL reads as something else than a name.
const LITERALS: [&str; 4] = ["true", "false", "null", "in"];

impl Path {
    /// Reads `a.b.c`, `items.0.id`, `items[0].id`, `steps["create-thread"].output`; `None` for everything else,
    /// which is then CEL's business.
    pub(crate) fn parse(source: &str) -> Option<Self> {
        let mut rest = source;
        let mut segments = Vec::new();
        let first = take_name(&mut rest, &segments)?;
        if LITERALS.contains(&first.as_str()) {
            return None;
        }
        segments.push(Segment::Key(first));
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('.') {
                rest = after;
                segments.push(Segment::Key(take_name(&mut rest, &segments)?));
            } else {
                let (inside, after) = rest.strip_prefix('[')?.split_once(']')?;
                rest = after;
                segments.push(bracketed(inside)?);
            }
        }
        Self::from_segments(segments)
    }

    /// Makes a path of its segments, the first of which must be a name.
    pub(crate) fn from_segments(segments: Vec<Segment>) -> Option<Self> {
        let mut segments = segments.into_iter();
        let Some(Segment::Key(first)) = segments.next() else {
            return None;
        };
        let mut segments: Vec<Segment> = segments.collect();
        let root = match first.as_str() {
            "input" => Root::Input,
            "run" => Root::Run,
            "steps" if segments.is_empty() => Root::Steps,
            "steps" => match segments.remove(0) {
                Segment::Key(step) => Root::Step(step),
                // steps are not a list
                Segment::Index(_) => return None,
            },
            _ => Root::Flat(first),
        };
        Some(Self { root, segments })
    }

    pub(crate) fn kind(&self) -> NameKind {
        match &self.root {
            Root::Input => NameKind::Input,
            Root::Run => NameKind::Run,
            Root::Steps => NameKind::Steps,
            Root::Step(name) => NameKind::Step(name.clone()),
            Root::Flat(name) => NameKind::Flat(name.clone()),
        }
    }

    pub(crate) fn look_up<'a>(&self, scope: &Scope<'a>) -> Option<Found<'a>> {
        match &self.root {
            Root::Input => walk(scope.input, &self.segments).map(Found::Borrowed),
            Root::Run => walk(scope.run, &self.segments).map(Found::Borrowed),
            Root::Flat(name) => walk(flat(scope, name)?, &self.segments).map(Found::Borrowed),
            Root::Step(name) => {
                let step = scope
                    .steps
                    .iter()
                    .rev()
                    .find(|step| step.visible && step.name == name)?;
                read_step(step, &self.segments)
            }
            Root::Steps => {
                let visible = scope.steps.iter().filter(|step| step.visible);
                Some(Found::Made(Value::Object(
                    visible
                        .map(|step| (step.name.to_owned(), whole_step(step)))
                        .collect(),
                )))
            }
        }
    }
}

/// The flat merge that existing definitions rely on: later finishers win over earlier ones and over the input. Read
/// backwards instead of merged, because a template reads a few names of possibly large outputs.
fn flat<'a>(scope: &Scope<'a>, name: &str) -> Option<&'a Value> {
    scope
        .steps
        .iter()
        .rev()
        .filter(|step| step.visible && step.status == StepStatus::Completed)
        .find_map(|step| match step.output.get("data") {
            Some(Value::Object(data)) => data.get(name),
            _ => step.output.get(name),
        })
        .or_else(|| scope.input.get(name))
}

fn read_step<'a>(step: &StepView<'a>, segments: &[Segment]) -> Option<Found<'a>> {
    let Some((first, rest)) = segments.split_first() else {
        return Some(Found::Made(whole_step(step)));
    };
    match first {
        Segment::Key(key) if key == "output" => walk(step.output, rest).map(Found::Borrowed),
        Segment::Key(key) if key == "status" && rest.is_empty() => {
            Some(Found::Made(Value::from(step.status.as_str())))
        }
        _ => None,
    }
}

fn whole_step(step: &StepView<'_>) -> Value {
    serde_json::json!({ "status": step.status.as_str(), "output": step.output })
}

fn walk<'a>(mut value: &'a Value, segments: &[Segment]) -> Option<&'a Value> {
    for segment in segments {
        value = match (segment, value) {
            (Segment::Key(key), Value::Object(object)) => object.get(key)?,
            // `items.0` as in other template languages
            (Segment::Key(key), Value::Array(list)) => list.get(key.parse::<usize>().ok()?)?,
            (Segment::Index(index), Value::Array(list)) => list.get(*index)?,
            _ => return None,
        };
    }
    Some(value)
}

/// Takes a name off the front. A step's name may hold dashes: after `steps.` a subtraction would make no sense.
fn take_name(rest: &mut &str, before: &[Segment]) -> Option<String> {
    let is_step = matches!(before, [Segment::Key(first)] if first == "steps");
    let end = rest
        .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || (is_step && c == '-')))
        .unwrap_or(rest.len());
    let (name, after) = rest.split_at(end);
    let starts_right = match name.chars().next()? {
        c if c.is_ascii_digit() => !before.is_empty() && name.chars().all(|c| c.is_ascii_digit()),
        c => c != '-',
    };
    if !starts_right {
        return None;
    }
    *rest = after;
    Some(name.to_owned())
}

fn bracketed(inside: &str) -> Option<Segment> {
    if !inside.is_empty() && inside.bytes().all(|b| b.is_ascii_digit()) {
        return inside.parse().ok().map(Segment::Index);
    }
    let quote = inside.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let key = inside.strip_prefix(quote)?.strip_suffix(quote)?;
    // escapes and quotes inside are left to CEL
    (!key.contains(['\\', '"', '\''])).then(|| Segment::Key(key.to_owned()))
}

pub(crate) fn is_identifier(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (root, step) = match &self.root {
            Root::Input => ("input", None),
            Root::Run => ("run", None),
            Root::Steps => ("steps", None),
            Root::Step(step) => ("steps", Some(step)),
            Root::Flat(name) => (name.as_str(), None),
        };
        f.write_str(root)?;
        if let Some(step) = step {
            write!(f, ".{step}")?;
        }
        for segment in &self.segments {
            match segment {
                Segment::Key(key) if is_identifier(key) || key.bytes().all(|b| b.is_ascii_digit()) => {
                    write!(f, ".{key}")?;
                }
                Segment::Key(key) => write!(f, "[{key:?}]")?,
                Segment::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}
