//! Payload templates: JSON in which strings may hold `{{ expression }}`.
//!
//! A string that is exactly one expression keeps the JSON type of its value; inside longer text, strings are inserted
//! as they are, numbers and booleans as JSON writes them, null as nothing, lists and objects as compact JSON. Keys of
//! objects are literal. Compiled once, when the definition is published; rendering plain names copies JSON and no more.

use serde_json::Value;

use crate::definition::Problem;
use crate::expr::{Expr, NameUse, VALUE_MAX_BYTES};
pub use crate::expr::{RenderCode, RenderError, Scope, StepView};

/// A compiled template.
#[derive(Debug)]
pub struct Template {
    root: Node,
    place: String,
}

#[derive(Debug)]
enum Node {
    Literal(Value),
    Expr(Expr),
    Text(Vec<Part>),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

#[derive(Debug)]
enum Part {
    Literal(String),
    Expr(Expr),
}

impl Template {
    /// Compiles a JSON value; `path` is where it stands in the definition.
    ///
    /// # Errors
    /// Every problem in it, each with its place.
    pub fn compile(value: &Value, path: &str) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let root = compile_node(value, path, &mut problems);
        if problems.is_empty() {
            Ok(Self {
                root,
                place: path.to_owned(),
            })
        } else {
            Err(problems)
        }
    }

    /// Fills the template in.
    ///
    /// # Errors
    /// [`RenderError`] of the first expression that has no value, or when the whole passes
    /// [`VALUE_MAX_BYTES`](crate::expr::VALUE_MAX_BYTES).
    pub fn render(&self, scope: &Scope<'_>) -> Result<Value, RenderError> {
        let mut budget = Budget {
            left: VALUE_MAX_BYTES,
            place: &self.place,
        };
        render_node(&self.root, scope, &mut budget)
    }

    /// Whether it holds no expression, so that it renders to the same value for every run.
    pub fn is_constant(&self) -> bool {
        matches!(self.root, Node::Literal(_))
    }

    /// The value of a constant template.
    pub fn constant(&self) -> Option<&Value> {
        match &self.root {
            Node::Literal(value) => Some(value),
            _ => None,
        }
    }

    /// Every name its expressions read, with the place of the expression.
    pub fn names(&self) -> Vec<(&str, NameUse)> {
        let mut names = Vec::new();
        for expr in self.expressions() {
            names.extend(expr.names().into_iter().map(|name| (expr.place(), name)));
        }
        names
    }

    /// Every expression in it, in the order of the source.
    pub fn expressions(&self) -> Vec<&Expr> {
        fn collect<'t>(node: &'t Node, into: &mut Vec<&'t Expr>) {
            match node {
                Node::Literal(_) => {}
                Node::Expr(expr) => into.push(expr),
                Node::Text(parts) => into.extend(parts.iter().filter_map(|part| match part {
                    Part::Expr(expr) => Some(expr),
                    Part::Literal(_) => None,
                })),
                Node::List(nodes) => nodes.iter().for_each(|node| collect(node, into)),
                Node::Object(fields) => fields.iter().for_each(|(_, node)| collect(node, into)),
            }
        }
        let mut found = Vec::new();
        collect(&self.root, &mut found);
        found
    }
}

fn compile_node(value: &Value, path: &str, problems: &mut Vec<Problem>) -> Node {
    match value {
        Value::String(text) => compile_text(text, path, problems),
        Value::Array(list) => {
            let nodes: Vec<Node> = list
                .iter()
                .enumerate()
                .map(|(i, item)| compile_node(item, &format!("{path}[{i}]"), problems))
                .collect();
            if nodes.iter().all(|node| matches!(node, Node::Literal(_))) {
                return Node::Literal(value.clone());
            }
            Node::List(nodes)
        }
        Value::Object(object) => {
            let mut fields = Vec::with_capacity(object.len());
            for (key, item) in object {
                let place = crate::definition::join(path, key);
                if key.contains("{{") {
                    problems.push(Problem::new(
                        &place,
                        "keys are literal: use `{{ }}` in values only, or let one expression make the whole object",
                    ));
                }
                fields.push((key.clone(), compile_node(item, &place, problems)));
            }
            if fields.iter().all(|(_, node)| matches!(node, Node::Literal(_))) {
                return Node::Literal(value.clone());
            }
            Node::Object(fields)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => Node::Literal(value.clone()),
    }
}

fn compile_text(text: &str, path: &str, problems: &mut Vec<Problem>) -> Node {
    if !text.contains("{{") {
        return Node::Literal(Value::from(text));
    }
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find("{{") {
        if open > 0 {
            parts.push(Part::Literal(rest[..open].to_owned()));
        }
        let inside = &rest[open + 2..];
        let Some(close) = closing(inside) else {
            problems.push(Problem::new(path, "`{{` is never closed: write `{{ name }}`"));
            return Node::Literal(Value::Null);
        };
        match Expr::compile(&inside[..close], path) {
            Ok(expr) => parts.push(Part::Expr(expr)),
            Err(problem) => problems.push(Problem::new(path, problem.message)),
        }
        rest = &inside[close + 2..];
    }
    if !rest.is_empty() {
        parts.push(Part::Literal(rest.to_owned()));
    }
    if parts.len() == 1
        && let Some(Part::Expr(_)) = parts.first()
        && let Some(Part::Expr(expr)) = parts.pop()
    {
        return Node::Expr(expr);
    }
    Node::Text(parts)
}

/// Where the `}}` stands that ends an expression: not inside a string literal or an object literal of it.
fn closing(inside: &str) -> Option<usize> {
    let bytes = inside.as_bytes();
    let mut depth = 0usize;
    let mut quote = None;
    let mut i = 0;
    while i < bytes.len() {
        match (quote, bytes[i]) {
            (Some(_), b'\\') => i += 1,
            (Some(open), b) if b == open => quote = None,
            (Some(_), _) => {}
            (None, b @ (b'"' | b'\'')) => quote = Some(b),
            (None, b'{') => depth += 1,
            (None, b'}') if depth > 0 => depth -= 1,
            (None, b'}') if bytes.get(i + 1) == Some(&b'}') => return Some(i),
            (None, _) => {}
        }
        i += 1;
    }
    None
}

/// Bytes that a rendering may still take: a short template over a large input can ask for gigabytes.
struct Budget<'t> {
    left: usize,
    place: &'t str,
}

impl Budget<'_> {
    fn spend(&mut self, bytes: usize) -> Result<(), RenderError> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| RenderError {
            code: RenderCode::TooLarge,
            name: self.place.to_owned(),
            place: self.place.to_owned(),
            message: format!(
                "render `{}`: the result passes the limit of {VALUE_MAX_BYTES} bytes; pass a reference to the data",
                self.place
            ),
        })?;
        Ok(())
    }
}

fn render_node(node: &Node, scope: &Scope<'_>, budget: &mut Budget<'_>) -> Result<Value, RenderError> {
    Ok(match node {
        // bounded by the size of the definition
        Node::Literal(value) => value.clone(),
        Node::Expr(expr) => {
            let found = expr.eval_found(scope)?;
            budget.spend(approximate_bytes(found.as_ref()))?;
            match found {
                crate::expr::Found::Borrowed(value) => value.clone(),
                crate::expr::Found::Made(value) => value,
            }
        }
        Node::Text(parts) => {
            let mut text = String::new();
            for part in parts {
                match part {
                    Part::Literal(literal) => text.push_str(literal),
                    Part::Expr(expr) => {
                        let found = expr.eval_found(scope)?;
                        budget.spend(approximate_bytes(found.as_ref()))?;
                        push_text(&mut text, found.as_ref());
                    }
                }
            }
            Value::String(text)
        }
        Node::List(nodes) => Value::Array(
            nodes
                .iter()
                .map(|node| render_node(node, scope, budget))
                .collect::<Result<_, _>>()?,
        ),
        Node::Object(fields) => Value::Object(
            fields
                .iter()
                .map(|(key, node)| Ok((key.clone(), render_node(node, scope, budget)?)))
                .collect::<Result<_, RenderError>>()?,
        ),
    })
}

fn push_text(text: &mut String, value: &Value) {
    match value {
        Value::Null => {}
        Value::String(inserted) => text.push_str(inserted),
        other => text.push_str(&other.to_string()),
    }
}

/// About the bytes of the value's JSON, without writing it.
fn approximate_bytes(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 5,
        Value::Number(_) => 8,
        Value::String(text) => text.len() + 2,
        Value::Array(list) => 2 + list.iter().map(|item| approximate_bytes(item) + 1).sum::<usize>(),
        Value::Object(object) => {
            2 + object
                .iter()
                .map(|(key, item)| key.len() + 4 + approximate_bytes(item))
                .sum::<usize>()
        }
    }
}

#[cfg(test)]
mod tests;
