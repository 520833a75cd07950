//! What is done to the syntax tree of an expression before it is evaluated.
//!
//! Every name (`input.a.b`, `steps["x"].output`) becomes a numbered reference into a table of [`Path`]s. So only what is
//! named is read, a missing name is reported by its full path, `has()` and `default()` work for flat names, and each
//! turn of a loop passes a counter.

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr as Ast, IdedExpr, LiteralValue, operators,
};
use cel::common::types::CelBool;

use super::path::{Path, Root, Segment};
use super::syntax::HAS_ALIAS;
use super::{NameKind, NameUse};

const DEFAULT: &str = "default";
/// References that the rewrite makes; `@` cannot be written in source.
pub(super) const VALUE_OF: &str = "@value:";
pub(super) const IS_THERE: &str = "@there:";
pub(super) const IS_SET: &str = "@set:";
pub(super) const TURN: &str = "@turn";

/// Bare names that are types in CEL (`type(x) == int`); data of that name is still found first.
pub(super) const TYPE_NAMES: [&str; 11] = [
    "bool",
    "bytes",
    "double",
    "dyn",
    "int",
    "list",
    "map",
    "null_type",
    "string",
    "type",
    "uint",
];
/// The functions of the standard library as built here (no regular expressions, no times).
const FUNCTIONS: [&str; 18] = [
    "bool",
    "bytes",
    "contains",
    "double",
    "dyn",
    "endsWith",
    "hasValue",
    "int",
    "none",
    "of",
    "ofNonZeroValue",
    "or",
    "orValue",
    "size",
    "startsWith",
    "string",
    "type",
    "uint",
];
/// Macros, for suggestions only: the parser has replaced them before unknown functions are looked for.
const MACROS: [&str; 8] = [
    "all",
    "default",
    "exists",
    "existsOne",
    "exists_one",
    "filter",
    "has",
    "map",
];

#[derive(Default)]
pub(super) struct Rewrite {
    pub(super) paths: Vec<Path>,
    pub(super) uses: Vec<NameUse>,
    /// Names that `has()` or `default()` asks for.
    pub(super) tested: Vec<NameKind>,
    /// Variables of the comprehensions around the current node.
    bound: Vec<String>,
}

impl Rewrite {
    pub(super) fn expr(&mut self, node: &mut IdedExpr, needed: bool) -> Result<(), String> {
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
                self.bound
                    .extend([loop_.iter_var.clone(), loop_.accu_var.clone()]);
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
                return Err(format!(
                    "there is no message type `{}`: write an object",
                    message.type_name
                ));
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
        let lazy = [
            operators::CONDITIONAL,
            operators::LOGICAL_AND,
            operators::LOGICAL_OR,
        ]
        .contains(&call.func_name.as_str());
        let conditional = call.func_name == operators::CONDITIONAL;
        if let Some(target) = &mut call.target {
            let library =
                matches!(&target.expr, Ast::Ident(name) if name == "optional" && !self.bound.contains(name));
            if !library {
                self.expr(target, needed)?;
            }
        }
        for (i, argument) in call.args.iter_mut().enumerate() {
            self.expr(argument, needed && (!lazy || (conditional && i == 0)))?;
        }
        let named = call
            .func_name
            .starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && !call.func_name.starts_with('_');
        if named && !FUNCTIONS.contains(&call.func_name.as_str()) {
            let nearest =
                crate::definition::nearest(&call.func_name, FUNCTIONS.iter().chain(&MACROS).copied());
            return Err(match nearest {
                Some(known) => format!(
                    "there is no function `{}`: did you mean `{known}`?",
                    call.func_name
                ),
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
                Ok(self.reference(
                    IS_THERE,
                    Path {
                        root: Root::Flat(name),
                        segments: Vec::new(),
                    },
                    false,
                ))
            }
            Ast::Ident(_) => Ok(literal(true)),
            _ => Err(
                "has() takes a name or a field, such as has(guest_name) or has(input.guest.name)".to_owned(),
            ),
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
        let index = self
            .paths
            .iter()
            .position(|known| *known == path)
            .unwrap_or_else(|| {
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
                    let [operand, index] = call.args.as_slice() else {
                        return None;
                    };
                    segments.push(match &index.expr {
                        Ast::Literal(LiteralValue::String(key)) => Segment::Key(key.inner().to_owned()),
                        Ast::Literal(LiteralValue::Int(i)) => {
                            Segment::Index(usize::try_from(*i.inner()).ok()?)
                        }
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
fn count_turns(loop_: &mut ComprehensionExpr) {
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

/// Whether the tree is at most this deep.
pub(super) fn nests_within(node: &IdedExpr, levels: usize) -> bool {
    let Some(below) = levels.checked_sub(1) else {
        return false;
    };
    let within = |node: &IdedExpr| nests_within(node, below);
    match &node.expr {
        Ast::Call(call) => call.target.iter().all(|target| within(target)) && call.args.iter().all(within),
        Ast::Comprehension(loop_) => [
            &loop_.iter_range,
            &loop_.accu_init,
            &loop_.loop_cond,
            &loop_.loop_step,
            &loop_.result,
        ]
        .into_iter()
        .all(within),
        Ast::Select(select) => within(&select.operand),
        Ast::List(list) => list.elements.iter().all(within),
        Ast::Map(map) => map.entries.iter().all(|entry| match &entry.expr {
            EntryExpr::MapEntry(entry) => within(&entry.key) && within(&entry.value),
            EntryExpr::StructField(field) => within(&field.value),
        }),
        Ast::Ident(_) | Ast::Literal(_) | Ast::Struct(_) | Ast::Unspecified => true,
    }
}
