//! Expressions that are more than one dotted name: parsed by CEL, rewritten ([`super::rewrite`]), evaluated against the
//! table of the names they read, so that a large input is never converted as a whole for one field of it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};

use cel::common::ast::IdedExpr;
use cel::common::types::CelBool;
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use cel::{Context, Env, ExecutionError};
use serde_json::Value;

use super::path::{Found, Path, Segment};
use super::rewrite::{self, IS_SET, IS_THERE, Rewrite, TURN, TYPE_NAMES, VALUE_OF};
use super::syntax::{problem, shield, shorten};
use super::to_cel::{NotJson, to_cel, to_json};
use super::{ExprProblem, LOOP_TURNS_MAX, NameUse, Scope, VALUE_MAX_BYTES};

/// Deepest nesting of a compiled expression; a chain of n operators such as `a + b + …` nests n deep. Evaluation
/// recurses on the engine's own stack.
const DEPTH_MAX: usize = 40;
/// Stack for CEL's generated parser, whose frames take 100 KiB per bracket without optimisation; its own limit of 96
/// levels fits. Only touched pages cost memory.
const PARSER_STACK_BYTES: usize = 64 << 20;

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

#[derive(Debug)]
pub(super) struct CelPlan {
    ast: IdedExpr,
    paths: Vec<Path>,
    uses: Vec<NameUse>,
}

#[derive(Debug)]
pub(super) enum Failure<'p> {
    Missing(&'p Path),
    MissingKey(String),
    TooLarge,
    Other(String),
}

impl CelPlan {
    pub(super) fn compile(source: &str) -> Result<Self, ExprProblem> {
        let compiled = std::thread::scope(|scope| {
            let parser = std::thread::Builder::new().stack_size(PARSER_STACK_BYTES);
            parser
                .spawn_scoped(scope, || Self::compile_here(source))
                .ok()?
                .join()
                .ok()
        });
        // no thread to be had, or a panic of the parser: refused, not passed on
        compiled.unwrap_or_else(|| {
            Err(ExprProblem {
                message: format!("read `{}` as an expression", shorten(source)),
            })
        })
    }

    fn compile_here(source: &str) -> Result<Self, ExprProblem> {
        let mut ast = ENV
            .parser()
            .parse(&shield(source))
            .map_err(|errors| problem(source, &errors))?;
        let mut rewrite = Rewrite::default();
        rewrite
            .expr(&mut ast, true)
            .map_err(|message| ExprProblem { message })?;
        if !rewrite::nests_within(&ast, DEPTH_MAX) {
            let message = format!(
                "the expression nests or chains deeper than {DEPTH_MAX}: move the logic into a function"
            );
            return Err(ExprProblem { message });
        }
        let Rewrite {
            paths,
            mut uses,
            tested,
            ..
        } = rewrite;
        for name in &mut uses {
            name.needed &= !tested.contains(&name.kind);
        }
        Ok(Self { ast, paths, uses })
    }

    pub(super) fn names(&self) -> Vec<NameUse> {
        self.uses.clone()
    }

    pub(super) fn eval(&self, scope: &Scope<'_>) -> Result<Value, Failure<'_>> {
        let found: Vec<Option<Found<'_>>> = self.paths.iter().map(|path| path.look_up(scope)).collect();
        let names = Names {
            paths: &self.paths,
            values: found.iter().map(|_| OnceLock::new()).collect(),
            found: &found,
            scope: *scope,
            bare_types: TYPE_NAMES.iter().map(|_| OnceLock::new()).collect(),
            turns: AtomicU32::new(0),
        };
        let mut context = Context::with_env(Arc::clone(&ENV));
        context.set_variable_resolver(&names);
        let value = cel::Value::resolve_val(&self.ast, &context).map_err(|error| self.failure(error))?;
        let mut budget = VALUE_MAX_BYTES;
        to_json(value.as_ref(), &mut budget).map_err(|why| match why {
            NotJson::TooLarge => Failure::TooLarge,
            NotJson::Kind(kind) => Failure::Other(format!("it gives {kind}, which is no JSON")),
        })
    }

    /// CEL's words without the values in them, which may be private and end up in logs.
    fn failure(&self, error: ExecutionError) -> Failure<'_> {
        Failure::Other(match error {
            ExecutionError::UndeclaredReference(name) if *name == TURN => {
                format!("its loops take more than {LOOP_TURNS_MAX} turns")
            }
            ExecutionError::UndeclaredReference(name) => {
                let path = name
                    .strip_prefix(VALUE_OF)
                    .and_then(|i| self.paths.get(i.parse::<usize>().ok()?));
                return match path {
                    Some(path) => Failure::Missing(path),
                    None => Failure::MissingKey(name.to_string()),
                };
            }
            ExecutionError::NoSuchKey(key) => return Failure::MissingKey(key.to_string()),
            ExecutionError::NoSuchOverload(types) => types.to_string(),
            ExecutionError::UnexpectedType { got, want } => {
                format!("a value is {got} where {want} is expected")
            }
            ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => {
                "division by zero".to_owned()
            }
            ExecutionError::Overflow(..) => "a number grows out of range".to_owned(),
            ExecutionError::IndexOutOfBounds(_) => "a list index is out of bounds".to_owned(),
            ExecutionError::ValuesNotComparable(..) => "values of these types cannot be compared".to_owned(),
            ExecutionError::UnsupportedBinaryOperator(operator, ..) => {
                format!("the operator `{operator}` does not fit these types")
            }
            ExecutionError::FunctionError { function, .. } => format!("`{function}` refuses its argument"),
            ExecutionError::InvalidArgumentCount { expected, actual } => {
                format!("a function takes {expected} arguments and got {actual}")
            }
            ExecutionError::DuplicateKey(_) => "an object repeats a key".to_owned(),
            _ => "the types of the values do not fit".to_owned(),
        })
    }
}

/// The names of one evaluation. Each is converted at most once, however often a loop reads it.
struct Names<'f> {
    paths: &'f [Path],
    found: &'f [Option<Found<'f>>],
    values: Vec<OnceLock<Box<dyn Val + 'f>>>,
    scope: Scope<'f>,
    bare_types: Vec<OnceLock<Box<dyn Val + 'f>>>,
    turns: AtomicU32,
}

impl Names<'_> {
    fn index(&self, reference: &str, prefix: &str) -> Option<usize> {
        reference
            .strip_prefix(prefix)?
            .parse()
            .ok()
            .filter(|i| *i < self.paths.len())
    }
}

impl VariableResolver for Names<'_> {
    fn resolve<'b>(&'b self, name: &str) -> Option<CowVal<'b, 'b>> {
        if let Some(i) = self.index(name, VALUE_OF) {
            let found = self.found[i].as_ref()?;
            return Some(CowVal::Borrowed(
                self.values[i].get_or_init(|| to_cel(found.as_ref())).as_ref(),
            ));
        }
        if let Some(i) = self.index(name, IS_THERE) {
            return Some(CowVal::owned(CelBool::from(self.found[i].is_some())));
        }
        if let Some(i) = self.index(name, IS_SET) {
            let set = self.found[i]
                .as_ref()
                .is_some_and(|found| !found.as_ref().is_null());
            return Some(CowVal::owned(CelBool::from(set)));
        }
        if name == TURN {
            let turns = self.turns.fetch_add(1, Ordering::Relaxed);
            return (turns < LOOP_TURNS_MAX).then(|| CowVal::owned(CelBool::from(true)));
        }
        let i = TYPE_NAMES.iter().position(|known| *known == name)?;
        let value = match Path::from_segments(vec![Segment::Key(name.to_owned())])?.look_up(&self.scope)? {
            Found::Borrowed(value) => value,
            Found::Made(_) => return None,
        };
        Some(CowVal::Borrowed(
            self.bare_types[i].get_or_init(|| to_cel(value)).as_ref(),
        ))
    }
}
