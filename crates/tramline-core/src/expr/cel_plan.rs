//! Expressions that are more than one dotted name: parsed by CEL, then rewritten so that evaluating them reads only
//! what they name.
//!
//! The rewrite replaces every name (`input.a.b`, `steps["x"].output`) by a numbered reference into a table of
//! [`Path`]s. So a large input is never converted as a whole for one field of it, a missing name is reported by its
//! full path, `has()` works for flat names, and each loop turn passes a counter.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};

use cel::common::ast::{CallExpr, EntryExpr, Expr as Ast, IdedExpr, LiteralValue, operators};
use cel::common::types::CelBool;
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use cel::{Context, Env, ExecutionError};
use serde_json::Value;

use super::path::{Found, Path, Segment};
use super::to_cel::{NotJson, to_cel, to_json};
use super::{ExprProblem, LOOP_TURNS_MAX, NameKind, NameUse, Scope, VALUE_MAX_BYTES};

/// What `has` is called while CEL parses, because CEL's own macro refuses bare names. As long as the word it stands
/// for, so that columns in the parser's messages are right; no identifier of a user's can collide, see [`shield`].
const HAS_ALIAS: &str = "h_s";
const DEFAULT: &str = "default";
/// References that the rewrite makes; `@` cannot be written in source.
const VALUE_OF: &str = "@value:";
const IS_THERE: &str = "@there:";
const IS_SET: &str = "@set:";
const TURN: &str = "@turn";

/// Bare names that are types in CEL (`type(x) == int`); data of that name is still found first.
const TYPE_NAMES: [&str; 11] =
    ["bool", "bytes", "double", "dyn", "int", "list", "map", "null_type", "string", "type", "uint"];
/// The functions of the standard library as built here (no regular expressions, no times).
const FUNCTIONS: [&str; 18] = [
    "bool", "bytes", "contains", "double", "dyn", "endsWith", "hasValue", "int", "none", "of", "ofNonZeroValue", "or",
    "orValue", "size", "startsWith", "string", "type", "uint",
];
/// Macros, for suggestions only: the parser has replaced them before unknown functions are looked for.
const MACROS: [&str; 8] = ["all", "default", "exists", "existsOne", "exists_one", "filter", "has", "map"];

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
        let mut ast = ENV.parser().parse(&shield(source)).map_err(|errors| ExprProblem {
            message: match errors.errors.first() {
                Some(error) if error.pos.1 > 0 => format!(
                    "read `{source}` as an expression: {} (column {})",
                    unshield(&error.msg),
                    error.pos.1
                ),
                Some(error) => format!("read `{source}` as an expression: {}", unshield(&error.msg)),
                None => format!("read `{source}` as an expression"),
            },
        })?;
        let mut rewrite = Rewrite::default();
        rewrite.expr(&mut ast, true).map_err(|message| ExprProblem { message })?;
        let Rewrite { paths, mut uses, tested, .. } = rewrite;
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
                let path = name.strip_prefix(VALUE_OF).and_then(|i| self.paths.get(i.parse::<usize>().ok()?));
                return match path {
                    Some(path) => Failure::Missing(path),
                    None => Failure::MissingKey(name.to_string()),
                };
            }
            ExecutionError::NoSuchKey(key) => return Failure::MissingKey(key.to_string()),
            ExecutionError::NoSuchOverload(types) => types.to_string(),
            ExecutionError::UnexpectedType { got, want } => format!("a value is {got} where {want} is expected"),
            ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => "division by zero".to_owned(),
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
        reference.strip_prefix(prefix)?.parse().ok().filter(|i| *i < self.paths.len())
    }
}

impl VariableResolver for Names<'_> {
    fn resolve<'b>(&'b self, name: &str) -> Option<CowVal<'b, 'b>> {
        if let Some(i) = self.index(name, VALUE_OF) {
            let found = self.found[i].as_ref()?;
            return Some(CowVal::Borrowed(self.values[i].get_or_init(|| to_cel(found.as_ref())).as_ref()));
        }
        if let Some(i) = self.index(name, IS_THERE) {
            return Some(CowVal::owned(CelBool::from(self.found[i].is_some())));
        }
        if let Some(i) = self.index(name, IS_SET) {
            let set = self.found[i].as_ref().is_some_and(|found| !found.as_ref().is_null());
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
        Some(CowVal::Borrowed(self.bare_types[i].get_or_init(|| to_cel(value)).as_ref()))
    }
}

#[derive(Default)]
struct Rewrite {
    paths: Vec<Path>,
    uses: Vec<NameUse>,
    /// Names that `has()` or `default()` asks for.
    tested: Vec<NameKind>,
    /// Variables of the comprehensions around the current node.
    bound: Vec<String>,
}

impl Rewrite {
    fn expr(&mut self, node: &mut IdedExpr, needed: bool) -> Result<(), String> {
        if let Some(path) = self.as_path(&node.expr) {
            node.expr = self.reference(VALUE_OF, path, needed);
            return Ok(());
        }
        match &mut node.expr {
            Ast::Call(call) => {
                if let Some(replacement) = self.call(call, needed)? {
                    node.expr = replacement;
                }
            }
            Ast::Comprehension(loop_) => {
                self.expr(&mut loop_.iter_range, needed)?;
                self.expr(&mut loop_.accu_init, false)?;
                let outside = self.bound.len();
                self.bound.extend([loop_.iter_var.clone(), loop_.accu_var.clone()]);
                self.bound.extend(loop_.iter_var2.clone());
                self.expr(&mut loop_.loop_cond, false)?;
                self.expr(&mut loop_.loop_step, false)?;
                self.expr(&mut loop_.result, false)?;
                self.bound.truncate(outside);
                count_turns(loop_);
            }
            Ast::Select(select) => self.expr(&mut select.operand, needed)?,
            Ast::List(list) => {
                for element in &mut list.elements {
                    self.expr(element, needed)?;
                }
            }
            Ast::Map(map) => {
                for entry in &mut map.entries {
                    let EntryExpr::MapEntry(entry) = &mut entry.expr else {
                        return Err("message literals are not supported: write an object".to_owned());
                    };
                    self.expr(&mut entry.key, needed)?;
                    self.expr(&mut entry.value, needed)?;
                }
            }
            Ast::Struct(message) => {
                return Err(format!("there is no message type `{}`: write an object", message.type_name));
            }
            Ast::Unspecified => return Err("the expression is incomplete".to_owned()),
            // what as_path left: loop variables and type names
            Ast::Ident(_) | Ast::Literal(_) => {}
        }
        Ok(())
    }

    fn call(&mut self, call: &mut CallExpr, needed: bool) -> Result<Option<Ast>, String> {
        match (call.func_name.as_str(), call.target.is_some(), call.args.len()) {
            (HAS_ALIAS, false, 1) => {
                let argument = call.args.remove(0);
                return self.has(argument).map(Some);
            }
            (DEFAULT, false, 2) => {
                let mut fallback = call.args.remove(1);
                let tested = call.args.remove(0);
                self.expr(&mut fallback, false)?;
                return self.or_fallback(tested, fallback).map(Some);
            }
            (HAS_ALIAS, ..) => return Err("has() takes one name".to_owned()),
            (DEFAULT, false, _) => return Err("default() takes a name and a fallback".to_owned()),
            _ => {}
        }
        // an operator that may skip its right side, or that ignores a failure of one side
        let lazy = [operators::CONDITIONAL, operators::LOGICAL_AND, operators::LOGICAL_OR]
            .contains(&call.func_name.as_str());
        let conditional = call.func_name == operators::CONDITIONAL;
        for (i, argument) in call.args.iter_mut().enumerate() {
            self.expr(argument, needed && (!lazy || (conditional && i == 0)))?;
        }
        if let Some(target) = &mut call.target {
            let library = matches!(&target.expr, Ast::Ident(name) if name == "optional" && !self.bound.contains(name));
            if !library {
                self.expr(target, needed)?;
            }
        }
        let named = call.func_name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && !call.func_name.starts_with('_');
        if named && !FUNCTIONS.contains(&call.func_name.as_str()) {
            let nearest = crate::definition::nearest(&call.func_name, FUNCTIONS.iter().chain(&MACROS).copied());
            return Err(match nearest {
                Some(known) => format!("there is no function `{}`: did you mean `{known}`?", call.func_name),
                None => format!("there is no function `{}`", call.func_name),
            });
        }
        Ok(None)
    }

    fn has(&mut self, argument: IdedExpr) -> Result<Ast, String> {
        if let Some(path) = self.as_path(&argument.expr) {
            return Ok(self.reference(IS_THERE, path, false));
        }
        match argument.expr {
            Ast::Select(mut select) => {
                self.expr(&mut select.operand, false)?;
                select.test = true;
                Ok(Ast::Select(select))
            }
            Ast::Ident(name) if TYPE_NAMES.contains(&name.as_str()) && !self.bound.contains(&name) => {
                Ok(self.reference(IS_THERE, Path { root: super::Root::Flat(name), segments: Vec::new() }, false))
            }
            Ast::Ident(_) => Ok(literal(true)),
            _ => Err("has() takes a name or a field, such as has(guest_name) or has(input.guest.name)".to_owned()),
        }
    }

    fn or_fallback(&mut self, tested: IdedExpr, fallback: IdedExpr) -> Result<Ast, String> {
        let id = tested.id;
        let node = |expr| IdedExpr { id, expr };
        if let Some(path) = self.as_path(&tested.expr) {
            let is_set = self.reference(IS_SET, path.clone(), false);
            let value = self.reference(VALUE_OF, path, false);
            return Ok(conditional(node(is_set), node(value), fallback));
        }
        match &tested.expr {
            Ast::Select(_) => {
                let is_there = self.has(tested.clone())?;
                let mut value = tested;
                self.expr(&mut value, false)?;
                Ok(conditional(node(is_there), value, fallback))
            }
            _ => Err("default() takes a name first, such as default(guest_name, \"guest\")".to_owned()),
        }
    }

    fn reference(&mut self, prefix: &str, path: Path, needed: bool) -> Ast {
        let kind = path.kind();
        if prefix != VALUE_OF && !self.tested.contains(&kind) {
            self.tested.push(kind.clone());
        }
        self.uses.push(NameUse { kind, needed });
        let index = self.paths.iter().position(|known| *known == path).unwrap_or_else(|| {
            self.paths.push(path);
            self.paths.len() - 1
        });
        Ast::Ident(format!("{prefix}{index}"))
    }

    /// The longest dotted name that this node spells, unless it starts with a loop variable or is a bare type name.
    fn as_path(&self, node: &Ast) -> Option<Path> {
        if matches!(node, Ast::Ident(name) if TYPE_NAMES.contains(&name.as_str())) {
            return None;
        }
        let mut segments = Vec::new();
        let mut at = node;
        loop {
            match at {
                Ast::Ident(name) => {
                    if name.starts_with('@') || self.bound.contains(name) {
                        return None;
                    }
                    segments.push(Segment::Key(name.trim_start_matches('.').to_owned()));
                    segments.reverse();
                    return Path::from_segments(segments);
                }
                Ast::Select(select) if !select.test => {
                    segments.push(Segment::Key(select.field.clone()));
                    at = &select.operand.expr;
                }
                Ast::Call(call) if call.func_name == operators::INDEX && call.target.is_none() => {
                    let [operand, index] = call.args.as_slice() else { return None };
                    segments.push(match &index.expr {
                        Ast::Literal(LiteralValue::String(key)) => Segment::Key(key.inner().to_owned()),
                        Ast::Literal(LiteralValue::Int(i)) => Segment::Index(usize::try_from(*i.inner()).ok()?),
                        _ => return None,
                    });
                    at = &operand.expr;
                }
                _ => return None,
            }
        }
    }
}

/// Makes every turn of a comprehension ask for [`TURN`], which fails once they are used up. A conditional, because it
/// is the one operator that never swallows a failure. `map` and `filter` get it as the guard of their step: their
/// literal condition is what CEL recognises to append in place instead of copying the list each turn.
fn count_turns(loop_: &mut cel::common::ast::ComprehensionExpr) {
    let id = loop_.loop_step.id;
    let node = |expr| IdedExpr { id, expr };
    let turn = || node(Ast::Ident(TURN.to_owned()));
    let builds_a_list = matches!(&loop_.accu_init.expr, Ast::List(_));
    if !builds_a_list {
        let condition = std::mem::take(&mut loop_.loop_cond);
        loop_.loop_cond = node(conditional(turn(), condition, node(literal(false))));
        return;
    }
    if let Ast::Call(step) = &mut loop_.loop_step.expr
        && step.func_name == operators::CONDITIONAL
        && let Some(guard) = step.args.first_mut()
    {
        let inner = std::mem::take(guard);
        *guard = node(conditional(turn(), inner, node(literal(false))));
    } else {
        let step = std::mem::take(&mut loop_.loop_step);
        let unchanged = node(Ast::Ident(loop_.accu_var.clone()));
        loop_.loop_step = node(conditional(turn(), step, unchanged));
    }
}

fn conditional(condition: IdedExpr, then: IdedExpr, otherwise: IdedExpr) -> Ast {
    Ast::Call(CallExpr {
        func_name: operators::CONDITIONAL.to_owned(),
        target: None,
        args: vec![condition, then, otherwise],
    })
}

fn literal(value: bool) -> Ast {
    Ast::Literal(LiteralValue::Boolean(CelBool::from(value)))
}

/// Renames calls of `has(` to [`HAS_ALIAS`] outside string literals.
fn shield(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut quote = None;
    let mut escaped = false;
    let mut previous = ' ';
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        match quote {
            Some(open) => {
                if escaped {
                    escaped = false;
                } else if c == '\\' {
                    escaped = true;
                } else if c == open {
                    quote = None;
                }
            }
            None if matches!(c, '"' | '\'') => quote = Some(c),
            None => {
                let starts_word = !(previous.is_alphanumeric() || matches!(previous, '_' | '.'));
                if starts_word
                    && let Some(after) = rest.strip_prefix("has")
                    && after.trim_start().starts_with('(')
                {
                    out.push_str(HAS_ALIAS);
                    previous = 's';
                    rest = after;
                    continue;
                }
            }
        }
        out.push(c);
        previous = c;
        rest = &rest[c.len_utf8()..];
    }
    out
}

fn unshield(message: &str) -> String {
    message.replace(HAS_ALIAS, "has")
}
