//! One route as the OpenAPI document describes it. Whoever adds a route has to make one of these for it: the routes' enums
//! are matched exhaustively.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Value, json};

use crate::error::Code;

/// A name in a path: no dot segment, no backslash, no NUL (see `screen`).
const PATH_TEXT: &str = "^[^./\\\\\\u0000][^/\\\\\\u0000]*$";

/// What the operations are grouped by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tag {
    Runs,
    Workers,
    DeadLetters,
    Workflows,
    Schedules,
    Queues,
    Functions,
    Node,
    Deployment,
    Secrets,
    Tokens,
}

impl Tag {
    pub(crate) const ALL: [(Self, &'static str, &'static str); 11] = [
        (
            Self::Runs,
            "runs",
            "Start runs, look at them, change their course.",
        ),
        (
            Self::Workers,
            "workers",
            "For workers outside: claim runs of pull queues and say how they went.",
        ),
        (
            Self::DeadLetters,
            "dead letters",
            "Runs that were given up and wait for a person.",
        ),
        (
            Self::Workflows,
            "workflows",
            "Definitions: versioned, immutable once published.",
        ),
        (
            Self::Schedules,
            "schedules",
            "Recurring starts, their periods, and calendars of days on which nothing is due.",
        ),
        (
            Self::Queues,
            "queues",
            "Queues, their limits and what is in them.",
        ),
        (
            Self::Functions,
            "functions",
            "The functions of the node, their logs, and signed links to them.",
        ),
        (Self::Node, "node", "The node, its ledger, and this document."),
        (
            Self::Deployment,
            "deployment",
            "Versions of functions. The platform's command line speaks these.",
        ),
        (
            Self::Secrets,
            "secrets",
            "Environment of the functions: values come in, only digests go out.",
        ),
        (Self::Tokens, "tokens", "Access tokens for those who deploy."),
    ];

    pub(crate) fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(tag, ..)| *tag == self)
            .map_or("", |(_, name, _)| name)
    }
}

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Callers {
    /// Anybody.
    Everybody,
    /// `service_role` only.
    Service,
    /// And users for runs that they started.
    OwnRuns,
    /// And users for the targets that the configuration names.
    Start,
    /// An access token or `service_role`.
    Deployers,
    /// `service_role` only, at the management API.
    Operators,
}

impl Callers {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Everybody => "anybody",
            Self::Service | Self::Operators => "`service_role`",
            Self::OwnRuns => "`service_role`; `authenticated` users for runs that they started",
            Self::Start => "`service_role`; `authenticated` users for the targets in `authenticated_targets`",
            Self::Deployers => "an access token; `service_role`",
        }
    }

    /// The requirement of OpenAPI: one of the list is enough.
    pub(crate) fn security(self) -> Value {
        match self {
            Self::Everybody => json!([]),
            Self::Deployers => json!([{ "accessToken": [] }, { "token": [] }, { "apikey": [] }]),
            _ => json!([{ "token": [] }, { "apikey": [] }]),
        }
    }
}

/// Makes the schema of a type, with those that it refers to.
pub(crate) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// A name in the path or query.
pub(crate) struct Param {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) schema: Value,
    pub(crate) example: Option<Value>,
    /// Of the query; names in the path are always there.
    pub(crate) required: bool,
}

impl Param {
    pub(crate) fn new(name: &'static str, about: &'static str, schema: Value) -> Self {
        Self {
            name,
            about,
            schema,
            example: None,
            required: false,
        }
    }

    /// Any text.
    pub(crate) fn text(name: &'static str, about: &'static str) -> Self {
        Self::new(name, about, json!({ "type": "string" }))
    }

    /// An id.
    pub(crate) fn id(name: &'static str, about: &'static str) -> Self {
        let mut param = Self::new(name, about, json!({ "type": "string", "format": "uuid" }));
        param.example = Some(json!("0190163d-8694-739b-aea5-966c26f8ad91"));
        param
    }

    /// A whole number.
    pub(crate) fn whole(name: &'static str, about: &'static str, min: u64, max: u64) -> Self {
        Self::new(
            name,
            about,
            json!({ "type": "integer", "minimum": min, "maximum": max }),
        )
    }

    /// One of some words.
    pub(crate) fn word(name: &'static str, about: &'static str, words: &[&str]) -> Self {
        Self::new(name, about, json!({ "type": "string", "enum": words }))
    }
}

/// The body of a request.
pub(crate) struct Taken {
    pub(crate) content_type: &'static str,
    pub(crate) schema: SchemaOf,
    pub(crate) required: bool,
    /// Satisfies the schema: a test says so.
    pub(crate) example: Option<Value>,
}

/// An answer that is no failure.
pub(crate) struct Given {
    pub(crate) status: u16,
    pub(crate) about: &'static str,
    /// None for an answer without a body.
    pub(crate) content: Vec<(&'static str, SchemaOf)>,
}

/// A route in words.
pub(crate) struct Operation {
    pub(crate) tag: Tag,
    pub(crate) id: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) about: &'static str,
    /// In the order of the places in the pattern.
    pub(crate) path: Vec<Param>,
    pub(crate) query: Vec<Param>,
    pub(crate) body: Option<Taken>,
    pub(crate) answers: Vec<Given>,
    /// Beside those that follow from all this.
    codes: Vec<Code>,
}

const JSON: &str = "application/json";

impl Operation {
    pub(crate) fn new(tag: Tag, id: &'static str, summary: &'static str) -> Self {
        Self {
            tag,
            id,
            summary,
            about: "",
            path: Vec::new(),
            query: Vec::new(),
            body: None,
            answers: Vec::new(),
            codes: Vec::new(),
        }
    }

    /// More than the summary says.
    pub(crate) fn about(mut self, about: &'static str) -> Self {
        self.about = about;
        self
    }

    /// The next name in the path.
    pub(crate) fn at(mut self, mut param: Param) -> Self {
        // an empty segment would make another path of it, and the others none
        if param.schema == json!({ "type": "string" }) {
            param.schema["minLength"] = 1.into();
            param.schema["pattern"] = PATH_TEXT.into();
        }
        self.path.push(param);
        self
    }

    /// A parameter of the query; none is required unless the text says so.
    pub(crate) fn query(mut self, param: Param) -> Self {
        self.query.push(param);
        self
    }

    /// A body in JSON, with an example.
    pub(crate) fn takes<T: JsonSchema>(self, example: Value) -> Self {
        self.body(JSON, schema_of::<T>, true, Some(example))
    }

    /// A body in JSON that may be left out, with an example.
    pub(crate) fn may_take<T: JsonSchema>(self, example: Value) -> Self {
        self.body(JSON, schema_of::<T>, false, Some(example))
    }

    /// A form.
    pub(crate) fn takes_form<T: JsonSchema>(self) -> Self {
        self.body("multipart/form-data", schema_of::<T>, true, None)
    }

    fn body(
        mut self,
        content_type: &'static str,
        schema: SchemaOf,
        required: bool,
        example: Option<Value>,
    ) -> Self {
        self.body = Some(Taken {
            content_type,
            schema,
            required,
            example,
        });
        self
    }

    /// An answer in JSON.
    pub(crate) fn gives<T: JsonSchema>(self, status: u16, about: &'static str) -> Self {
        self.gives_as::<T>(status, about, &[JSON])
    }

    /// An answer in other kinds of content.
    pub(crate) fn gives_as<T: JsonSchema>(
        mut self,
        status: u16,
        about: &'static str,
        content_types: &[&'static str],
    ) -> Self {
        let schema: SchemaOf = schema_of::<T>;
        self.answers.push(Given {
            status,
            about,
            content: content_types.iter().map(|kind| (*kind, schema)).collect(),
        });
        self
    }

    /// An answer without a body.
    pub(crate) fn gives_nothing(mut self, status: u16, about: &'static str) -> Self {
        self.answers.push(Given {
            status,
            about,
            content: Vec::new(),
        });
        self
    }

    /// Failures beside those that follow from caller, path, query and body.
    pub(crate) fn fails(mut self, codes: &[Code]) -> Self {
        self.codes.extend_from_slice(codes);
        self
    }

    /// All codes that the route can answer.
    pub(crate) fn codes(&self, callers: Callers) -> Vec<Code> {
        let mut codes = vec![
            Code::BadRequest,
            Code::InvalidUrl,
            Code::TooManyHeaders,
            Code::TooManyRequests,
        ];
        if callers != Callers::Everybody {
            codes.extend([
                Code::UnauthorizedNoAuthHeader,
                Code::UnauthorizedInvalidJwtFormat,
                Code::UnauthorizedLegacyJwt,
                Code::UnauthorizedAsymmetricJwt,
                Code::UnauthorizedUnsupportedTokenAlgorithm,
                Code::UnauthorizedInvalidApiKey,
                Code::UnauthorizedSecretKeyInBrowser,
                Code::Forbidden,
                Code::PayloadTooLarge,
                Code::Internal,
                Code::Unavailable,
                Code::IssuerUnavailable,
            ]);
        }
        let is_management = matches!(callers, Callers::Deployers | Callers::Operators);
        if is_management {
            // also a node that serves no deployments
            codes.extend([Code::UnauthorizedAccessToken, Code::NotFound]);
        }
        if !self.path.is_empty() {
            codes.push(Code::NotFound);
        }
        if !self.query.is_empty() && !is_management {
            codes.push(Code::InvalidRequest);
        }
        if self.body.is_some() {
            codes.extend([
                Code::RequestTimeout,
                Code::PayloadTooLarge,
                Code::UnsupportedMediaType,
                Code::InvalidJson,
            ]);
            if !is_management {
                codes.push(Code::InvalidRequest);
            }
        }
        codes.extend_from_slice(&self.codes);
        codes.sort_unstable();
        codes.dedup();
        codes
    }
}
