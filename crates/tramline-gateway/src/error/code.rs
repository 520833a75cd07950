//! The codes of all answers that the gateway makes for a failure: each stands here once, with its status, its cause and
//! what to do. [`super::Fault`] takes its status from here, the OpenAPI document its texts.

use http::StatusCode;

/// Which clients can meet a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Surface {
    /// `/api/v1` and `/v1`, and others besides.
    Api,
    /// `/functions/v1` only.
    Functions,
    /// `/rest/v1` and `/auth/v1` only.
    Backends,
}

macro_rules! codes {
    ($($surface:ident { $($name:ident $text:literal $status:literal $cause:literal, $action:literal;)+ })+) => {
        /// A stable code of an error body.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Code {
            $($(
                #[doc = $cause]
                $name,
            )+)+
        }

        impl Code {
            /// All codes, in the order of the documents.
            pub(crate) const ALL: &'static [Self] = &[$($(Self::$name,)+)+];

            /// As clients read it.
            pub(crate) fn as_str(self) -> &'static str {
                match self { $($(Self::$name => $text,)+)+ }
            }

            fn status_number(self) -> u16 {
                match self { $($(Self::$name => $status,)+)+ }
            }

            /// What happened.
            pub(crate) fn cause(self) -> &'static str {
                match self { $($(Self::$name => $cause,)+)+ }
            }

            /// What the caller can do.
            pub(crate) fn action(self) -> &'static str {
                match self { $($(Self::$name => $action,)+)+ }
            }

            /// Who can meet it.
            pub(crate) fn surface(self) -> Surface {
                match self { $($(Self::$name => Surface::$surface,)+)+ }
            }
        }
    };
}

codes! {
    Api {
        BadRequest "BAD_REQUEST" 400
            "The request is malformed: its body ended early, a part of a form or an item of a list is wrong; the message says which",
            "correct the request";
        InvalidUrl "INVALID_URL" 400
            "The path holds dot segments, a backslash or NUL, or the method is CONNECT",
            "send a plain path";
        InvalidJson "INVALID_JSON" 400
            "The body is not JSON, has a member twice, or more than 64 levels; `details` has line and column",
            "correct the body";
        InvalidRequest "INVALID_REQUEST" 400
            "Fields or query parameters are unknown or wrong; all of them are in `details.problems`",
            "correct all of them";
        SecretInSources "SECRET_IN_SOURCES" 400
            "Uploaded sources hold a credential; `details.problems` names file and line",
            "withdraw it and read it from the environment";
        UnauthorizedNoAuthHeader "UNAUTHORIZED_NO_AUTH_HEADER" 401
            "Neither `Authorization` nor `apikey` was sent",
            "send a key or token";
        UnauthorizedInvalidJwtFormat "UNAUTHORIZED_INVALID_JWT_FORMAT" 401
            "The credential is not `Bearer <token>`, not a token, or given twice",
            "correct the header";
        UnauthorizedLegacyJwt "UNAUTHORIZED_LEGACY_JWT" 401
            "The token's signature, expiry, start time or a claim is not acceptable",
            "get a new token";
        UnauthorizedAsymmetricJwt "UNAUTHORIZED_ASYMMETRIC_JWT" 401
            "The token is signed by a key pair, and no key to verify it is known",
            "configure its issuer; its `kid` must be in the issuer's key set";
        UnauthorizedUnsupportedTokenAlgorithm "UNAUTHORIZED_UNSUPPORTED_TOKEN_ALGORITHM" 401
            "The token names another algorithm than HS256, ES256 or RS256",
            "sign with one of these";
        UnauthorizedInvalidApiKey "UNAUTHORIZED_INVALID_API_KEY" 401
            "An `sb_…` key that is not this project's",
            "check the key";
        UnauthorizedSecretKeyInBrowser "UNAUTHORIZED_SECRET_KEY_IN_BROWSER" 401
            "A secret key or a service role token came from a browser",
            "use the publishable key, and exchange the secret one";
        UnauthorizedAccessToken "UNAUTHORIZED_ACCESS_TOKEN" 401
            "The access token is not known, expired or revoked",
            "make one with `tramline token create`";
        Forbidden "FORBIDDEN" 403
            "The caller's role may not do this, or not with this target",
            "use a service role key; see `[gateway] authenticated_targets`";
        NotFound "NOT_FOUND" 404
            "There is no such path, function, run, queue, workflow or schedule, or this node does not serve it",
            "check the name or id";
        UnknownTarget "UNKNOWN_TARGET" 404
            "No function and no published workflow has this name; `details.target` repeats it",
            "publish or deploy it";
        MethodNotAllowed "METHOD_NOT_ALLOWED" 405
            "The path has other methods; the header `allow` names them",
            "use one of these";
        NotAcceptable "NOT_ACCEPTABLE" 406
            "Sources come as `multipart/form-data` only",
            "send `accept: multipart/form-data`";
        RequestTimeout "REQUEST_TIMEOUT" 408
            "The body did not arrive: too long a pause between two pieces of it",
            "send again";
        Conflict "CONFLICT" 409
            "The correlation id was used with other input (`details.run_id` is that run), or the present status does not allow it",
            "use another id or the same input; look at the run";
        ClaimLost "CLAIM_LOST" 409
            "The claim of a pull run is not held any more: it expired, was taken back, or the run has ended",
            "stop working on the run";
        PayloadTooLarge "PAYLOAD_TOO_LARGE" 413
            "A body, an input, an output or metadata is larger than its limit, or a list has too many runs",
            "store the data elsewhere and pass a reference; send shorter lists";
        UnsupportedMediaType "UNSUPPORTED_MEDIA_TYPE" 415
            "The body is of another kind than the route takes",
            "send `content-type: application/json`, or a form with a boundary where sources are uploaded";
        InvalidInput "INVALID_INPUT" 422
            "Required fields are missing (`details.missing`), or what was sent cannot work (`details.problems`, with places)",
            "correct all of them";
        TooManyRequests "TOO_MANY_REQUESTS" 429
            "More requests than `[gateway] rate_per_ip` or `rate_per_key` allow",
            "wait for `Retry-After` seconds";
        TooManyHeaders "TOO_MANY_HEADERS" 431
            "The request has more than 100 headers",
            "send fewer";
        Internal "INTERNAL" 500
            "A bug, or a database that refuses; the node's log has the reason under the request id",
            "report it";
        Unavailable "UNAVAILABLE" 503
            "The database does not answer",
            "try again, with the same run id or correlation id";
        IssuerUnavailable "ISSUER_UNAVAILABLE" 503
            "The keys of the token's issuer cannot be fetched now",
            "try again";
    }
    Functions {
        MissingFunctionName "MISSING_FUNCTION_NAME" 400
            "The path names no function",
            "name one";
        InvalidIdempotencyKey "INVALID_IDEMPOTENCY_KEY" 400
            "The header `Idempotency-Key` is empty, too long, not ASCII or given twice",
            "send one of 1 to 255 characters";
        UnauthorizedCron "UNAUTHORIZED_CRON" 401
            "The function is for the cron secret or the service role",
            "send the cron secret";
        UnauthorizedWebhook "UNAUTHORIZED_WEBHOOK" 401
            "A webhook is not signed as agreed, or too old",
            "compare secret and scheme with the sender's";
        UnauthorizedNoLink "UNAUTHORIZED_NO_LINK" 401
            "The function needs a signed link",
            "sign one with `tramline sign`";
        UnauthorizedInvalidLink "UNAUTHORIZED_INVALID_LINK" 401
            "The link is not valid for this method, path and query",
            "sign one with `tramline sign`";
        DeliveryInProgress "DELIVERY_IN_PROGRESS" 409
            "Another attempt of this webhook is being worked on",
            "the sender tries again";
        IdempotencyKeyInProgress "IDEMPOTENCY_KEY_IN_PROGRESS" 409
            "The first request with this key is still being worked on",
            "wait for `Retry-After` seconds and send the same again";
        AnswerNotKept "ANSWER_NOT_KEPT" 409
            "The request was answered before, with a stream or a large answer",
            "do not send it again";
        LinkExpired "LINK_EXPIRED" 410
            "The link was good until now",
            "sign a new one";
        IdempotencyKeyReused "IDEMPOTENCY_KEY_REUSED" 422
            "The key was used for another query, content type or body",
            "use a new key for each request";
        WorkerError "WORKER_ERROR" 500
            "The function's process ended before it answered",
            "look into its log";
        BootError "BOOT_ERROR" 503
            "The function cannot be bundled, or its module does not load",
            "`tramline function list` tells the reason";
        Overloaded "OVERLOADED" 503
            "Too many calls are in flight on the function's instance",
            "try again";
        Stopping "STOPPING" 503
            "The node stops",
            "use another node, or try again";
        IdleTimeout "IDLE_TIMEOUT" 504
            "No answer began in time",
            "raise the function's `timeout_seconds`, or make it a run";
        RateLimitExceeded "RATE_LIMIT_EXCEEDED" 508
            "Functions call each other too deeply",
            "look for a loop";
        WorkerLimit "WORKER_LIMIT" 546
            "The function used too much memory, processor time, threads or temporary files",
            "its log tells which";
    }
    Backends {
        RestBadToken "PGRST301" 401
            "The token is not acceptable",
            "get a new token";
        RestExpiredToken "PGRST303" 401
            "The token has expired",
            "get a new token";
        BadJwt "bad_jwt" 403
            "The token is not acceptable",
            "get a new token";
    }
}

impl Code {
    /// The status of every answer with this code.
    pub(crate) fn status(self) -> StatusCode {
        // All numbers of the table are statuses: a test says so.
        StatusCode::from_u16(self.status_number()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_code_is_one_of_its_kind_with_a_status_of_an_error() {
        let texts: BTreeSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(texts.len(), Code::ALL.len());
        for code in Code::ALL {
            assert_eq!(code.status().as_u16(), code.status_number(), "{code:?}");
            assert!(
                code.status().is_client_error() || code.status_number() >= 500,
                "{code:?}"
            );
        }
    }

    #[test]
    fn every_code_is_in_the_list_for_operators() {
        let list = include_str!("../../../../docs/errors.md");
        for code in Code::ALL {
            assert!(
                list.contains(&format!("`{}`", code.as_str())),
                "{code:?} is not in docs/errors.md"
            );
        }
    }
}
