//! The document as a page for people: one file of HTML without scripts, readable on a phone, light and dark.

use std::fmt::Write as _;

use serde_json::Value;

/// The only style of the page; the answer's policy allows it by its hash.
pub(super) const STYLE: &str = include_str!("page.css");

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// One operation in its place.
struct Placed<'a> {
    path: &'a str,
    method: &'static str,
    operation: &'a Value,
}

/// The page.
pub(super) fn render(document: &Value) -> String {
    let info = &document["info"];
    let title = format!("{} {}", text(&info["title"]), text(&info["version"]));
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}: HTTP API</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<div class=\"page\">\n"
    );
    let operations = placed(document);
    contents(&mut page, document, &operations);
    page.push_str("<main>\n");
    let _ = write!(page, "<h1>{title}</h1>\n{}", prose(&info["description"]));
    page.push_str("<p>For programs: <a href=\"openapi.json\">openapi.json</a>, OpenAPI 3.1.</p>\n");
    credentials(&mut page, document);
    for tag in list(&document["tags"]) {
        let name = text(&tag["name"]);
        let _ = write!(
            page,
            "<h2 id=\"{}\">{name}</h2>\n{}",
            anchor(&name),
            prose(&tag["description"])
        );
        for placed in of_tag(&operations, &tag["name"]) {
            operation(&mut page, placed);
        }
    }
    errors(&mut page, document);
    schemas(&mut page, document);
    page.push_str("</main>\n</div>\n</body>\n</html>\n");
    page
}

fn placed(document: &Value) -> Vec<Placed<'_>> {
    let mut all = Vec::new();
    for (path, item) in members(&document["paths"]) {
        for method in METHODS {
            if let Some(operation) = item.get(method) {
                all.push(Placed {
                    path,
                    method,
                    operation,
                });
            }
        }
    }
    all
}

fn of_tag<'a>(operations: &'a [Placed<'a>], tag: &'a Value) -> impl Iterator<Item = &'a Placed<'a>> {
    operations
        .iter()
        .filter(move |placed| placed.operation["tags"][0] == *tag)
}

fn contents(page: &mut String, document: &Value, operations: &[Placed<'_>]) {
    page.push_str("<nav aria-label=\"Contents\"><details open><summary>Contents</summary>\n");
    for tag in list(&document["tags"]) {
        let name = text(&tag["name"]);
        let _ = write!(
            page,
            "<strong><a href=\"#{}\">{name}</a></strong>\n<ul>\n",
            anchor(&name)
        );
        for placed in of_tag(operations, &tag["name"]) {
            let (id, summary) = (
                text(&placed.operation["operationId"]),
                inline(&placed.operation["summary"]),
            );
            let _ = writeln!(page, "<li><a href=\"#{id}\">{summary}</a></li>");
        }
        page.push_str("</ul>\n");
    }
    page.push_str("<strong><a href=\"#errors\">errors</a></strong>\n<strong><a href=\"#schemas\">schemas</a></strong>\n</details></nav>\n");
}

fn credentials(page: &mut String, document: &Value) {
    page.push_str("<div class=\"part\"><h3>Credentials</h3>\n<dl>\n");
    for (name, scheme) in members(&document["components"]["securitySchemes"]) {
        let how = match scheme["type"].as_str() {
            Some("http") => "<code>Authorization: Bearer …</code>".to_owned(),
            _ => format!("<code>{}: …</code>", text(&scheme["name"])),
        };
        row(
            page,
            &format!("<strong>{}</strong>", escape(name)),
            &format!("{how} {}", inline(&scheme["description"])),
        );
    }
    page.push_str("</dl></div>\n");
}

fn operation(page: &mut String, placed: &Placed<'_>) {
    let operation = placed.operation;
    let (id, method, path) = (
        text(&operation["operationId"]),
        placed.method,
        escape(placed.path),
    );
    let _ = write!(
        page,
        "<section class=\"part\" id=\"{id}\">\n<h3>{}</h3>\n<p class=\"route\"><span class=\"verb {method}\">{}</span> <code>{path}</code></p>\n{}",
        inline(&operation["summary"]),
        method.to_uppercase(),
        prose(&operation["description"]),
    );
    let parameters = list(&operation["parameters"]);
    if !parameters.is_empty() {
        page.push_str("<h4>Parameters</h4>\n<dl>\n");
        for parameter in parameters {
            let need = if parameter["required"] == true {
                "required, "
            } else {
                ""
            };
            let place = text(&parameter["in"]);
            let head = format!(
                "<code>{}</code> <span class=\"kind\">{need}in {place}, {}</span>",
                text(&parameter["name"]),
                kind(&parameter["schema"])
            );
            row(page, &head, &inline(&parameter["description"]));
        }
        page.push_str("</dl>\n");
    }
    for (content_type, content) in members(&operation["requestBody"]["content"]) {
        let need = if operation["requestBody"]["required"] == true {
            ""
        } else {
            ", may be left out"
        };
        let _ = writeln!(
            page,
            "<h4>Body</h4>\n<p>{} <span class=\"kind\">{}{need}</span></p>",
            kind(&content["schema"]),
            escape(content_type)
        );
        if let Some(example) = content.get("example") {
            let example = serde_json::to_string_pretty(example).unwrap_or_default();
            let _ = writeln!(page, "<pre><code>{}</code></pre>", escape(&example));
        }
    }
    answers(page, operation);
    page.push_str("</section>\n");
}

fn answers(page: &mut String, operation: &Value) {
    page.push_str("<h4>Answers</h4>\n<dl>\n");
    for (status, answer) in members(&operation["responses"]) {
        if answer.get("$ref").is_some() {
            continue;
        }
        let kinds: Vec<String> = members(&answer["content"])
            .map(|(_, content)| kind(&content["schema"]))
            .collect();
        let kinds = kinds.first().cloned().unwrap_or_else(|| "no body".to_owned());
        let head = format!(
            "<strong>{}</strong> <span class=\"kind\">{kinds}</span>",
            escape(status)
        );
        row(page, &head, &inline(&answer["description"]));
    }
    let codes: Vec<String> = list(&operation["x-codes"])
        .iter()
        .map(|code| format!("<a href=\"#code-{0}\"><code>{0}</code></a>", text(code)))
        .collect();
    let _ = write!(
        page,
        "</dl>\n<details><summary class=\"soft\">Can fail with {} codes</summary><p>{}</p></details>\n",
        codes.len(),
        codes.join(" ")
    );
}

fn errors(page: &mut String, document: &Value) {
    page.push_str("<h2 id=\"errors\">errors</h2>\n<p>The body of a failure is an <a href=\"#schema-Error\">Error</a>.</p>\n");
    for (name, response) in members(&document["components"]["responses"]) {
        let _ = write!(
            page,
            "<div class=\"part\"><h3>{}</h3>\n<dl>\n",
            escape(name.trim_start_matches("Error"))
        );
        for code in list(&response["x-codes"]) {
            let word = text(&code["code"]);
            let told = format!("<p>{}: {}.</p>", inline(&code["cause"]), inline(&code["action"]));
            row(page, &format!("<code id=\"code-{word}\">{word}</code>"), &told);
        }
        page.push_str("</dl></div>\n");
    }
}

fn schemas(page: &mut String, document: &Value) {
    page.push_str("<h2 id=\"schemas\">schemas</h2>\n");
    for (name, schema) in members(&document["components"]["schemas"]) {
        let name = escape(name);
        let _ = write!(
            page,
            "<section class=\"part\" id=\"schema-{name}\">\n<h3>{name}</h3>\n{}",
            prose(&schema["description"])
        );
        let properties: Vec<_> = members(&schema["properties"]).collect();
        if properties.is_empty() {
            let _ = writeln!(page, "<p class=\"kind\">{}</p>", kind(schema));
        } else {
            page.push_str("<dl>\n");
            for (field, property) in properties {
                let need = if list(&schema["required"]).iter().any(|name| name == field) {
                    ""
                } else {
                    "optional, "
                };
                let head = format!(
                    "<code>{}</code> <span class=\"kind\">{need}{}</span>",
                    escape(field),
                    kind(property)
                );
                row(page, &head, &inline(&property["description"]));
            }
            page.push_str("</dl>\n");
        }
        page.push_str("</section>\n");
    }
}

fn row(page: &mut String, head: &str, told: &str) {
    let _ = writeln!(page, "<div class=\"row\"><dt>{head}</dt><dd>{told}</dd></div>");
}

/// What a value may be, in a few words.
fn kind(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = escape(reference.rsplit('/').next().unwrap_or_default());
        return format!("<a href=\"#schema-{name}\">{name}</a>");
    }
    for several in ["anyOf", "oneOf"] {
        let kinds: Vec<String> = list(&schema[several]).iter().map(kind).collect();
        if !kinds.is_empty() {
            return kinds.join(" or ");
        }
    }
    let words: Vec<String> = list(&schema["enum"])
        .iter()
        .filter(|word| !word.is_null())
        .map(|word| format!("<code>{}</code>", text(word)))
        .collect();
    if !words.is_empty() {
        return words.join(" ");
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one.as_str()],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => return "any JSON".to_owned(),
    };
    let (nulls, others): (Vec<&str>, Vec<&str>) = types.into_iter().partition(|word| *word == "null");
    if others.is_empty() {
        return "null".to_owned();
    }
    let words: Vec<String> = others.iter().map(|word| typed(schema, word)).collect();
    let null = if nulls.is_empty() { "" } else { " or null" };
    format!("{}{}{null}", words.join(" or "), bounds(schema))
}

fn typed(schema: &Value, word: &str) -> String {
    match (word, schema["format"].as_str()) {
        ("array", _) => format!("list of {}", kind(&schema["items"])),
        ("string", Some("uuid")) => "UUID".to_owned(),
        ("string", Some("date-time")) => "time".to_owned(),
        ("string", _) => "text".to_owned(),
        ("integer", _) => "whole number".to_owned(),
        (other, _) => escape(other),
    }
}

fn bounds(schema: &Value) -> String {
    let bound = |low: &str, high: &str| match (schema[low].as_i64(), schema[high].as_i64()) {
        // the ranges of the types that hold the numbers tell nothing
        (Some(low), Some(high)) if !schema["format"].is_string() => Some(format!(" {low} to {high}")),
        (Some(low), None) if low != 0 && !schema["format"].is_string() => Some(format!(" from {low}")),
        (None, Some(high)) => Some(format!(" up to {high}")),
        _ => None,
    };
    let size = bound("minLength", "maxLength").map(|size| format!(",{size} characters"));
    let value = bound("minimum", "maximum");
    let count = bound("minItems", "maxItems").map(|count| format!(",{count} items"));
    let default = schema
        .get("default")
        .map(|default| format!(", default {default}"));
    [size, value, count, default].into_iter().flatten().collect()
}

/// Paragraphs, and code between backticks.
fn prose(value: &Value) -> String {
    let words = value.as_str().unwrap_or_default();
    let paragraphs = words.split("\n\n").filter(|paragraph| !paragraph.is_empty());
    paragraphs
        .map(|paragraph| format!("<p>{}</p>\n", marked(paragraph)))
        .collect()
}

fn inline(value: &Value) -> String {
    marked(value.as_str().unwrap_or_default())
}

fn marked(words: &str) -> String {
    let pieces = words.split('`').enumerate().map(|(at, piece)| match at % 2 {
        0 => escape(piece),
        _ => format!("<code>{}</code>", escape(piece)),
    });
    pieces.collect()
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| escape(&value.to_string()), escape)
}

fn anchor(name: &str) -> String {
    name.replace(' ', "-")
}

fn escape(words: &str) -> String {
    words
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn members(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, member)| (name.as_str(), member))
}
