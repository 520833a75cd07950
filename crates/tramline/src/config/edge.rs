//! What the gateway does with a function's requests beside passing them on.

use std::time::Duration;

use serde_json::Value;
use tramline_core::definition;

use super::checked;
use super::reader::Section;

/// How long answers are kept by idempotency key when the function does not say: longer than any client repeats a request by
/// itself, and what the common payment APIs promise.
const KEEP_ANSWERS: Duration = Duration::from_secs(24 * 3600);

/// `idempotency` of a function.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IdempotencySettings {
    /// How long its correlation ids hold, in milliseconds; the default when not given.
    pub retention_ms: Option<u64>,
    /// How long the answers to requests with a key are kept; none: they are not.
    pub keep_answers: Option<Duration>,
}

/// `idempotency = true`, or `{ requests = true, retention = "7d" }`.
pub(super) fn read_idempotency(block: &Section<'_>, is_webhook: bool) -> IdempotencySettings {
    let settings = checked(block, "idempotency", |value, path| match value {
        Value::Bool(requests) => Ok(settings(*requests, None)),
        Value::Object(object) => {
            let mut rest = object.clone();
            let requests = match rest.remove("requests") {
                None => false,
                Some(Value::Bool(requests)) => requests,
                Some(_) => {
                    return Err(vec![definition::Problem {
                        path: format!("{path}.requests"),
                        message: "must be true or false".to_owned(),
                    }]);
                }
            };
            let retention_ms = definition::parse_idempotency(&Value::Object(rest), path)?;
            Ok(settings(requests, retention_ms))
        }
        // says what is expected
        _ => Err(vec![definition::Problem {
            path: path.to_owned(),
            message: "must be true, false or a table such as { requests = true, retention = \"7d\" }"
                .to_owned(),
        }]),
    })
    .unwrap_or_default();
    if is_webhook && settings.keep_answers.is_some() {
        block.refuse(
            "idempotency",
            "deliveries of a webhook are accepted once by their own id; leave it out",
        );
    }
    settings
}

fn settings(requests: bool, retention_ms: Option<u64>) -> IdempotencySettings {
    IdempotencySettings {
        retention_ms,
        keep_answers: requests.then(|| retention_ms.map_or(KEEP_ANSWERS, Duration::from_millis)),
    }
}

/// `schema` of a function.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SchemaSettings {
    /// For every body.
    pub file: Option<SchemaPlace>,
    /// For the payloads of bodies `{action, payload}`, by action.
    pub actions: Vec<(String, SchemaPlace)>,
}

/// Where a schema is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchemaPlace {
    /// Relative to the project folder.
    File(String),
    /// Here, as JSON: how schemas travel with a version that is deployed.
    Inline(String),
}

impl SchemaSettings {
    /// The files that are named.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        let places = self
            .file
            .iter()
            .chain(self.actions.iter().map(|(_, place)| place));
        places.filter_map(|place| match place {
            SchemaPlace::File(file) => Some(file.as_str()),
            SchemaPlace::Inline(_) => None,
        })
    }
}

/// `schema = { file = "schemas/x.json", actions = { create = { inline = "{…}" } } }`.
pub(super) fn read_schema(block: &Section<'_>) -> Option<SchemaSettings> {
    checked(block, "schema", |value, path| {
        let problem = |place: &str, message: &str| {
            vec![definition::Problem {
                path: format!("{path}{place}"),
                message: message.to_owned(),
            }]
        };
        let file = |place: &str, value: &Value| match value.as_str() {
            Some(file) if !file.is_empty() => Ok(SchemaPlace::File(file.to_owned())),
            None if value["inline"].is_string() => Ok(SchemaPlace::Inline(
                value["inline"].as_str().unwrap_or_default().to_owned(),
            )),
            _ => Err(problem(
                place,
                "must be the path of a file, from the project folder, or { inline = \"a schema\" }",
            )),
        };
        let Value::Object(given) = value else {
            return Err(problem(
                "",
                "must be a table such as { file = \"schemas/x.json\" }",
            ));
        };
        let mut settings = SchemaSettings::default();
        for (key, value) in given {
            match (key.as_str(), value) {
                ("file", value) => settings.file = Some(file(".file", value)?),
                ("actions", Value::Object(actions)) => {
                    for (action, value) in actions {
                        let place = format!(".actions.{action}");
                        settings.actions.push((action.clone(), file(&place, value)?));
                    }
                }
                ("actions", _) => {
                    return Err(problem(".actions", "must be a table of files by action"));
                }
                _ => {
                    return Err(problem(
                        "",
                        &format!("unknown key `{key}`: known are file and actions"),
                    ));
                }
            }
        }
        if settings == SchemaSettings::default() {
            return Err(problem("", "names no file: it needs file, actions or both"));
        }
        Ok(settings)
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{parse, problems};
    use super::*;

    #[test]
    fn idempotency_is_a_word_or_a_table() {
        let settings = |text: &str| {
            let text = format!("[functions.pay]\n{text}\n");
            parse(&text, &[]).unwrap().functions["pay"].idempotency
        };
        let day = Duration::from_secs(86_400);
        assert_eq!(settings("idempotency = true").keep_answers, Some(day));
        assert_eq!(settings("idempotency = false"), IdempotencySettings::default());
        assert_eq!(
            settings("idempotency = { retention = \"7d\" }").keep_answers,
            None
        );
        let both = settings("idempotency = { requests = true, retention = \"7d\" }");
        assert_eq!(both.keep_answers, Some(7 * day));
        assert_eq!(both.retention_ms, Some(7 * 86_400_000));
        for (text, wanted) in [
            ("idempotency = \"7d\"", "must be true, false or a table"),
            (
                "idempotency = { requests = 1 }",
                "functions.pay.idempotency.requests: must be true or false",
            ),
            ("idempotency = { reqests = true }", "unknown key `reqests`"),
            (
                "auth = \"webhook\"\nwebhook = \"github\"\nwebhook_secrets = [\"S\"]\nidempotency = true",
                "accepted once by their own id",
            ),
        ] {
            let found = problems(&format!("[functions.pay]\n{text}\n"), &[]);
            assert!(found.len() == 1 && found[0].contains(wanted), "{text}: {found:?}");
        }
    }

    #[test]
    fn schemas_are_files_by_function_and_action() {
        let text = "[functions.crm.schema]\nfile = \"schemas/crm.json\"\n[functions.crm.schema.actions]\ncreate = \"schemas/create.json\"\n";
        let schema = parse(text, &[]).unwrap().functions["crm"].schema.clone().unwrap();
        assert_eq!(
            schema.files().collect::<Vec<_>>(),
            ["schemas/crm.json", "schemas/create.json"]
        );
        assert_eq!(schema.actions[0].0, "create");
        let inline = "[functions.crm]\nschema = { file = { inline = \"true\" } }\n";
        let schema = parse(inline, &[]).unwrap().functions["crm"]
            .schema
            .clone()
            .unwrap();
        assert_eq!(schema.file, Some(SchemaPlace::Inline("true".to_owned())));
        for (text, wanted) in [
            ("schema = \"x.json\"", "functions.crm.schema: must be a table"),
            ("schema = {}", "names no file"),
            (
                "schema = { file = 1 }",
                "functions.crm.schema.file: must be the path of a file",
            ),
            (
                "schema = { actions = { a = \"\" } }",
                "functions.crm.schema.actions.a: must be the path",
            ),
            (
                "schema = { actions = \"x\" }",
                "functions.crm.schema.actions: must be a table",
            ),
            ("schema = { flie = \"x.json\" }", "unknown key `flie`"),
        ] {
            let found = problems(&format!("[functions.crm]\n{text}\n"), &[]);
            assert!(found.len() == 1 && found[0].contains(wanted), "{text}: {found:?}");
        }
    }
}
