//! What a function's answer means for the step that called it.

use http::header::{DATE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt as _;
use serde_json::Value;
use tramline_core::json::check_storable;
use tramline_engine::{Failure, Outcome};
use tramline_gateway::Body;
use tramline_host::{AnswerCut, BoxError};

/// Largest answer that is kept with a step; larger results belong into storage, with their address in the answer.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Longest message taken from an error's body.
const MESSAGE_CHARS_MAX: usize = 1_000;

/// Reads the answer and decides.
pub(super) async fn outcome(response: Response<Body>) -> Outcome {
    let status = response.status();
    let retry_after_ms = retry_after_ms(response.headers());
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => bytes.extend_from_slice(&data),
            // trailers tell nothing about the result
            Ok(Err(_)) => {}
            Err(error) => return failed(code_of_cut(&error), format!("the answer ended early: {error}")),
        }
        if bytes.len() > ANSWER_BYTES_MAX {
            return failed(
                "answer_too_large",
                format!(
                    "the answer is larger than {ANSWER_BYTES_MAX} bytes; store it and answer with its address"
                ),
            );
        }
    }
    match of_answer(status, &bytes) {
        Outcome::Failed(failure) => Outcome::Failed(Failure {
            retry_after_ms,
            ..failure
        }),
        completed => completed,
    }
}

/// Why the answer broke off, in the words of the ledger: the same as for a call that got no answer.
fn code_of_cut(error: &BoxError) -> &'static str {
    match error.downcast_ref::<AnswerCut>() {
        Some(AnswerCut::Time) => "timeout",
        Some(AnswerCut::Size) => "answer_too_large",
        Some(AnswerCut::Limit { .. }) => "worker_limit",
        Some(AnswerCut::WorkerError { .. } | AnswerCut::Function { .. }) | None => "worker_error",
    }
}

/// How long the callee wants to be left alone: seconds, or a point in time counted from the answer's own `Date`.
fn retry_after_ms(headers: &HeaderMap) -> Option<u64> {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let after = text(RETRY_AFTER)?.trim();
    if let Ok(seconds) = after.parse::<u64>() {
        return Some(seconds.saturating_mul(1_000));
    }
    let date = |text: &str| {
        jiff::fmt::rfc2822::parse(text)
            .ok()
            .map(|at| at.timestamp().as_millisecond())
    };
    let now = text(DATE)
        .and_then(date)
        .unwrap_or_else(|| jiff::Timestamp::now().as_millisecond());
    Some(u64::try_from(date(after)? - now).unwrap_or(0))
}

/// 2xx is success, unless the body says `{"success": false}`; everything else is a failure with what the body tells.
fn of_answer(status: StatusCode, body: &[u8]) -> Outcome {
    let value = if body.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(body)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(body).into_owned()))
    };
    if let Err(problem) = check_storable(&value) {
        return failed(
            "invalid_answer",
            format!("the answer cannot be stored: {} {problem}", problem.path),
        );
    }
    if !status.is_success() {
        let message = message_of(&value).unwrap_or_else(|| format!("the function answered {status}"));
        let failure = Failure {
            retryable: retryable(&value),
            ..Failure::new(format!("http_{}", status.as_u16()), message)
        };
        return with_details(failure, value);
    }
    if value.get("success") == Some(&Value::Bool(false)) {
        let error = value.get("error").cloned().unwrap_or(Value::Null);
        let code = error
            .get("code")
            .and_then(Value::as_str)
            .filter(|code| !code.is_empty());
        let message = message_of(&value).unwrap_or_else(|| "the function answered success: false".to_owned());
        let failure = Failure {
            retryable: retryable(&value),
            ..Failure::new(code.unwrap_or("function_failed"), message)
        };
        return with_details(failure, error);
    }
    Outcome::completed(value)
}

/// The callee's own word: `retryable` or its opposite `non_retryable`, in `error` or beside it.
fn retryable(body: &Value) -> Option<bool> {
    [body.get("error"), Some(body)]
        .into_iter()
        .flatten()
        .find_map(|place| {
            let word = |name: &str| place.get(name).and_then(Value::as_bool);
            word("retryable").or_else(|| word("non_retryable").map(|never| !never))
        })
}

fn failed(code: &str, message: String) -> Outcome {
    Outcome::Failed(Failure::new(code, message))
}

fn with_details(mut failure: Failure, details: Value) -> Outcome {
    // a text is the message already
    failure.details = Some(details).filter(|details| details.is_object() || details.is_array());
    Outcome::Failed(failure)
}

/// What a person would read out of an error's body: `{error: {message}}`, `{error}`, `{message}`, `{msg}`, or the text.
fn message_of(body: &Value) -> Option<String> {
    let candidates = [
        body.get("error").and_then(|error| error.get("message")),
        body.get("error"),
        body.get("message"),
        body.get("msg"),
        Some(body),
    ];
    let text = candidates.into_iter().flatten().find_map(Value::as_str)?.trim();
    (!text.is_empty()).then(|| text.chars().take(MESSAGE_CHARS_MAX).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(status: u16, body: &str) -> Outcome {
        of_answer(StatusCode::from_u16(status).unwrap(), body.as_bytes())
    }

    fn failure(outcome: Outcome) -> Failure {
        match outcome {
            Outcome::Failed(failure) => failure,
            Outcome::Completed(value) => panic!("completed with {value}"),
        }
    }

    #[test]
    fn a_2xx_answer_is_success_whatever_its_body() {
        assert_eq!(of(200, r#"{"a": 1}"#), Outcome::completed(json!({"a": 1})));
        assert_eq!(
            of(201, r#"{"success": true, "data": 1}"#),
            Outcome::completed(json!({"success": true, "data": 1}))
        );
        assert_eq!(of(204, ""), Outcome::completed(Value::Null));
        assert_eq!(of(200, "<p>hi</p>"), Outcome::completed(json!("<p>hi</p>")));
    }

    #[test]
    fn success_false_with_200_is_a_failed_step_with_its_error() {
        let told = failure(of(200, r#"{"success": false, "error": "no such guest"}"#));
        assert_eq!(
            (told.code.as_str(), told.message.as_str(), told.details),
            ("function_failed", "no such guest", None)
        );
        let told = failure(of(
            200,
            r#"{"success": false, "error": {"code": "gone", "message": "m"}}"#,
        ));
        assert_eq!((told.code.as_str(), told.message.as_str()), ("gone", "m"));
        assert_eq!(told.details, Some(json!({"code": "gone", "message": "m"})));
    }

    #[test]
    fn the_callee_may_say_whether_another_attempt_makes_sense() {
        let said = |status, body: &str| failure(of(status, body)).retryable;
        assert_eq!(said(503, r#"{"error": {"retryable": false}}"#), Some(false));
        assert_eq!(said(400, r#"{"retryable": true}"#), Some(true));
        assert_eq!(
            said(200, r#"{"success": false, "error": {"non_retryable": true}}"#),
            Some(false)
        );
        assert_eq!(said(500, r#"{"error": "boom", "retryable": "no"}"#), None);
        assert_eq!(said(500, "boom"), None);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let after = |pairs: &[(http::HeaderName, &'static str)]| {
            let headers = pairs
                .iter()
                .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)))
                .collect();
            retry_after_ms(&headers)
        };
        assert_eq!(after(&[(RETRY_AFTER, "120")]), Some(120_000));
        let date = (DATE, "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(
            after(&[date.clone(), (RETRY_AFTER, "Sun, 06 Nov 1994 08:50:07 GMT")]),
            Some(30_000)
        );
        assert_eq!(
            after(&[date, (RETRY_AFTER, "Sun, 06 Nov 1994 08:00:00 GMT")]),
            Some(0)
        );
        assert_eq!(after(&[(RETRY_AFTER, "soon")]), None);
        assert_eq!(after(&[]), None);
    }

    #[test]
    fn other_statuses_are_failures_with_the_bodys_message() {
        let told = failure(of(422, r#"{"error": "bad", "fields": ["a"]}"#));
        assert_eq!((told.code.as_str(), told.message.as_str()), ("http_422", "bad"));
        assert_eq!(told.details, Some(json!({"error": "bad", "fields": ["a"]})));
        assert_eq!(failure(of(302, "")).code, "http_302");
        assert_eq!(failure(of(500, "boom")).message, "boom");
        assert_eq!(
            failure(of(503, "{}")).message,
            "the function answered 503 Service Unavailable"
        );
    }

    #[test]
    fn half_an_answer_says_why_it_is_no_more() {
        let code = |cut: AnswerCut| code_of_cut(&cut.into());
        let message = String::new;
        assert_eq!(code(AnswerCut::Time), "timeout");
        assert_eq!(code(AnswerCut::Size), "answer_too_large");
        assert_eq!(code(AnswerCut::Limit { message: message() }), "worker_limit");
        assert_eq!(
            code(AnswerCut::WorkerError { message: message() }),
            "worker_error"
        );
        assert_eq!(code(AnswerCut::Function { message: message() }), "worker_error");
        assert_eq!(code_of_cut(&"the connection broke".into()), "worker_error");
    }

    #[test]
    fn an_answer_that_jsonb_refuses_fails_the_step() {
        assert_eq!(failure(of(200, r#"{"a": "x\u0000"}"#)).code, "invalid_answer");
        assert_eq!(failure(of(200, "text\0text")).code, "invalid_answer");
    }
}
