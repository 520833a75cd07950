//! From what a node answers to a sentence, details and an exit code.

use reqwest::StatusCode;
use serde_json::Value;

use super::Client;
use crate::exit::{Exit, Failure, chain};

/// The node could not be reached, or broke off.
pub(super) fn of_transport(error: &reqwest::Error, client: &Client) -> Failure {
    let url = client.url();
    if error.is_builder() {
        return Failure::new(
            Exit::Usage,
            format!("failed to use the address {url}: it must look like http://127.0.0.1:54321"),
        );
    }
    let how = match (&client.project, &client.dev) {
        (Some(project), Some(_)) => format!("Start it with `tramline dev {}`.", project.display()),
        _ => "Check --url, or start a node.".to_owned(),
    };
    if error.is_connect() {
        return Failure::new(
            Exit::Unavailable,
            format!("failed to reach tramline: nothing answers at {url}"),
        )
        .hint(how);
    }
    if error.is_timeout() {
        return Failure::new(
            Exit::Unavailable,
            format!("failed to get an answer of {url} in time"),
        );
    }
    Failure::new(
        Exit::Unavailable,
        format!("failed to talk to {url}: {}", chain(error)),
    )
}

/// The node answered with an error body `{code, message, details?, request_id}`.
pub(super) fn of_answer(status: StatusCode, body: Value) -> Failure {
    let exit = exit_of(status);
    let message = body["message"]
        .as_str()
        .unwrap_or("the request was refused")
        .to_owned();
    let code = body["code"].as_str().unwrap_or_default();
    let mut failure = Failure::new(exit, format!("{message} ({code}, HTTP {})", status.as_u16()));
    let details = &body["details"];
    if let Some(missing) = details["missing"].as_array() {
        failure.details.extend(
            missing
                .iter()
                .filter_map(Value::as_str)
                .map(|name| format!("{name} is missing")),
        );
    }
    if let Some(problems) = details["problems"].as_array() {
        failure.details.extend(problems.iter().map(problem));
    }
    if let Some(run) = details["run_id"].as_str() {
        failure.details.push(format!("run {run}"));
    }
    failure.hint = match exit {
        Exit::Unauthorized => {
            Some("Give a service role key of this project with --key or TRAMLINE_KEY.".to_owned())
        }
        Exit::Failure => body["request_id"]
            .as_str()
            .map(|id| format!("The node's log has more: request {id}.")),
        _ => None,
    };
    failure.answer = Some(body);
    failure
}

fn problem(problem: &Value) -> String {
    let message = problem["message"].as_str().unwrap_or_default();
    match problem["path"]
        .as_str()
        .filter(|path| !path.is_empty() && !message.starts_with(path))
    {
        Some(path) => format!("{path}: {message}"),
        None => message.to_owned(),
    }
}

/// One table from HTTP to exit codes.
pub fn exit_of(status: StatusCode) -> Exit {
    match status.as_u16() {
        200..=299 => Exit::Ok,
        401 | 403 => Exit::Unauthorized,
        404 => Exit::NotFound,
        400 | 405 | 409 | 411 | 413 | 415 | 422 => Exit::Refused,
        408 | 429 | 502..=504 => Exit::Unavailable,
        _ => Exit::Failure,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_missing_field_is_named() {
        let body = json!({"code": "INVALID_INPUT", "message": "Missing required fields: a, b", "details":
            {"missing": ["a", "b"], "problems": [{"path": "steps[0]", "message": "is wrong"}]}});
        let failure = of_answer(StatusCode::UNPROCESSABLE_ENTITY, body);
        assert_eq!(failure.exit, Exit::Refused);
        assert_eq!(
            failure.details,
            ["a is missing", "b is missing", "steps[0]: is wrong"]
        );
    }
}
