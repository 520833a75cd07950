//! The expression language of templates, conditions and rules: CEL, compiled once when a definition is published.
//!
//! What an expression can name: `input`, `run`, `steps.<name>.output`, `steps.<name>.status`, and flat names, which are
//! looked up in the outputs of the finished steps before the input. Beyond standard CEL there are
//! - `has(name)` for flat names too, not only for fields,
//! - `default(name, fallback)`: the fallback when the name is absent or null,
//! - `steps.create-thread.output`: a step's name may hold dashes when the whole expression is one dotted name; inside a
//!   longer expression it is written `steps["create-thread"].output`.
//!
//! A plain dotted name is read straight from the JSON, without CEL. There are no clocks, no randomness and no effects;
//! loops and results are bounded ([`LOOP_TURNS_MAX`], [`EXPRESSION_MAX_BYTES`]). The one thing CEL leaves open is the
//! order in which a comprehension visits the keys of a map: do not make it visible in a result.

mod cel_plan;
mod path;
mod rewrite;
mod syntax;
mod to_cel;

use serde_json::Value;

use crate::status::StepStatus;

use cel_plan::CelPlan;
pub(crate) use path::Found;
use path::Path;

/// Longest expression: what is longer belongs into a function. Also bounds the parser's work.
pub const EXPRESSION_MAX_BYTES: usize = 4_096;
/// Turns of all comprehensions of one evaluation together: about 50 ms of work. An expression is evaluated on the
/// engine's own thread, where an endless one would hold up its neighbours.
pub const LOOP_TURNS_MAX: u32 = 100_000;
/// Size of one evaluated or rendered value; the same as that of an input, because it becomes one.
pub const VALUE_MAX_BYTES: usize = crate::json::INPUT_MAX_BYTES;

/// What an expression may read.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// The run's input.
    pub input: &'a Value,
    /// Facts about the run: `run.id`, `run.attempt`, ….
    pub run: &'a Value,
    /// Steps in the order in which they finished.
    pub steps: &'a [StepView<'a>],
}

/// One step as expressions see it.
#[derive(Debug, Clone, Copy)]
pub struct StepView<'a> {
    pub name: &'a str,
    pub status: StepStatus,
    /// `Null` when it has none (not finished, or failed).
    pub output: &'a Value,
    /// Whether the reading step may see it: an ended ancestor of that step. Others read as absent, so that the same
    /// run renders the same whichever branch was faster.
    pub visible: bool,
}

/// Why an expression or template gave no value; a failure of the step, stored with the attempt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RenderError {
    pub code: RenderCode,
    /// The name that is missing, or the expression that failed.
    pub name: String,
    /// Where it stands in the definition, e.g. `steps[1].payload_template.to`.
    pub place: String,
    pub message: String,
}

/// Stable codes of [`RenderError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RenderCode {
    /// A name that nothing provides.
    MissingVariable,
    /// The expression was refused by the values it met (types, overflow, division by zero, too many turns).
    ExpressionFailed,
    /// A condition gave something else than true or false.
    NotABoolean,
    /// The result is larger than [`VALUE_MAX_BYTES`].
    TooLarge,
}

impl RenderCode {
    /// The code stored with the attempt.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MissingVariable => "missing_variable",
            Self::ExpressionFailed => "expression_failed",
            Self::NotABoolean => "not_a_boolean",
            Self::TooLarge => "value_too_large",
        }
    }
}

/// Why an expression cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExprProblem {
    pub message: String,
}

/// One name an expression reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameUse {
    pub kind: NameKind,
    /// Whether every evaluation reads it and fails without it. False inside `has()`, under a default, in a branch
    /// that may not be taken, and for a name that the same expression tests with `has()`.
    pub needed: bool,
}

/// What kind of name it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameKind {
    Input,
    Run,
    /// `steps` as a whole.
    Steps,
    /// `steps.<name>`.
    Step(String),
    /// A flat name: the first segment only.
    Flat(String),
}

/// A compiled expression. Cheap to evaluate when it is one dotted name.
#[derive(Debug)]
pub struct Expr {
    source: String,
    place: String,
    plan: Plan,
}

#[derive(Debug)]
enum Plan {
    Path(Path),
    Cel(Box<CelPlan>),
}

impl Expr {
    /// Compiles CEL source; `place` is carried into every error.
    ///
    /// # Errors
    /// [`ExprProblem`] with the parser's words and the column, or the limit that it passes.
    pub fn compile(source: &str, place: &str) -> Result<Self, ExprProblem> {
        let trimmed = source.trim();
        if trimmed.is_empty() {
            return Err(ExprProblem {
                message: "the expression is empty".to_owned(),
            });
        }
        if trimmed.len() > EXPRESSION_MAX_BYTES {
            return Err(ExprProblem {
                message: format!(
                    "the expression has {} bytes, the limit is {EXPRESSION_MAX_BYTES}: move the logic into a function",
                    trimmed.len()
                ),
            });
        }
        let plan = match Path::parse(trimmed) {
            Some(path) => Plan::Path(path),
            None => Plan::Cel(Box::new(CelPlan::compile(trimmed)?)),
        };
        Ok(Self {
            source: trimmed.to_owned(),
            place: place.to_owned(),
            plan,
        })
    }

    /// The source, trimmed.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Where it stands in the definition.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Whether it is one dotted name, read without CEL.
    pub fn is_plain_name(&self) -> bool {
        matches!(self.plan, Plan::Path(_))
    }

    /// Every name it reads, in the order of the source, repeats included.
    pub fn names(&self) -> Vec<NameUse> {
        match &self.plan {
            Plan::Path(path) => vec![NameUse {
                kind: path.kind(),
                needed: true,
            }],
            Plan::Cel(plan) => plan.names(),
        }
    }

    /// Evaluates to JSON.
    ///
    /// # Errors
    /// [`RenderError`] when a name is missing, the values do not fit, or the result is too large.
    pub fn eval(&self, scope: &Scope<'_>) -> Result<Value, RenderError> {
        Ok(match self.eval_found(scope)? {
            Found::Borrowed(value) => value.clone(),
            Found::Made(value) => value,
        })
    }

    /// Evaluates a condition.
    ///
    /// # Errors
    /// Those of [`Expr::eval`], and [`RenderCode::NotABoolean`] when the result is neither true nor false: nothing is
    /// guessed about empty strings or zero.
    pub fn eval_bool(&self, scope: &Scope<'_>) -> Result<bool, RenderError> {
        let found = self.eval_found(scope)?;
        match found.as_ref() {
            Value::Bool(answer) => Ok(*answer),
            other => Err(self.error(
                RenderCode::NotABoolean,
                &self.source,
                format!(
                    "evaluate the condition `{}`: it gives {}, not true or false",
                    self.source,
                    describe(other)
                ),
            )),
        }
    }

    pub(crate) fn eval_found<'a>(&self, scope: &Scope<'a>) -> Result<Found<'a>, RenderError> {
        match &self.plan {
            Plan::Path(path) => path.look_up(scope).ok_or_else(|| self.missing(path)),
            Plan::Cel(plan) => plan
                .eval(scope)
                .map(Found::Made)
                .map_err(|failure| match failure {
                    cel_plan::Failure::Missing(path) => self.missing(path),
                    cel_plan::Failure::MissingKey(key) => self.missing_name(&key),
                    cel_plan::Failure::TooLarge => self.too_large(),
                    cel_plan::Failure::Other(words) => self.error(
                        RenderCode::ExpressionFailed,
                        &self.source,
                        format!("evaluate `{}`: {words}", self.source),
                    ),
                }),
        }
    }

    fn missing(&self, path: &Path) -> RenderError {
        self.missing_name(&path.to_string())
    }

    fn missing_name(&self, name: &str) -> RenderError {
        let message = format!(
            "read `{name}`: neither the input nor a finished step provides it; pass it, or write default({name}, …)"
        );
        self.error(RenderCode::MissingVariable, name, message)
    }

    pub(crate) fn too_large(&self) -> RenderError {
        self.error(
            RenderCode::TooLarge,
            &self.source,
            format!(
                "render `{}`: the value passes the limit of {VALUE_MAX_BYTES} bytes",
                self.source
            ),
        )
    }

    fn error(&self, code: RenderCode, name: &str, message: String) -> RenderError {
        RenderError {
            code,
            name: name.to_owned(),
            place: self.place.clone(),
            message,
        }
    }
}

/// A value's type in words, for messages; never the value itself, which may be private.
pub(crate) fn describe(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests;
