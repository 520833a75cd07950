//! Kinds of values that several bodies have, as schemas: texts and numbers with the limits that the readers keep. They are
//! types without values, for the fields of bodies.

use std::borrow::Cow;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use tramline_core::status::RunStatus;

/// Postgres stores no NUL.
const WITHOUT_NUL: &str = r"^[^\x00]*$";

/// A text of 1 to `MAX` characters without NUL.
pub(crate) enum Text<const MAX: usize> {}

impl<const MAX: usize> JsonSchema for Text<MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Text{MAX}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "maxLength": MAX, "pattern": WITHOUT_NUL })
    }
}

/// A whole number from `MIN` to `MAX`.
pub(crate) enum Whole<const MIN: i64, const MAX: i64> {}

impl<const MIN: i64, const MAX: i64> JsonSchema for Whole<MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Whole{MIN}To{MAX}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}

/// A length of time from `MIN` to `MAX` seconds, as a number of seconds or as a text such as `1h30m`.
pub(crate) enum Span<const MIN: u64, const MAX: u64> {}

/// Units from long to short, each at most once; a number alone is seconds.
const DURATION: &str = r"^(\d{1,8}(\.\d{1,3})?|(\d{1,3}(\.\d{1,3})?d)?(\d{1,3}(\.\d{1,3})?h)?(\d{1,3}(\.\d{1,3})?m)?(\d{1,6}(\.\d{1,3})?s)?(\d{1,6}ms)?)$";

impl<const MIN: u64, const MAX: u64> JsonSchema for Span<MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Span{MIN}To{MAX}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "number", "minimum": MIN, "maximum": MAX },
                { "type": "string", "minLength": 1, "maxLength": 64, "pattern": DURATION },
            ],
            "examples": ["90s"],
        })
    }
}

/// One of two, by what was asked for.
#[allow(dead_code, reason = "a type without values")]
pub(crate) struct Either<A, B>(PhantomData<(A, B)>);

impl<A: JsonSchema, B: JsonSchema> JsonSchema for Either<A, B> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("{}Or{}", A::schema_name(), B::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [generator.subschema_for::<A>(), generator.subschema_for::<B>()] })
    }
}

/// A stream of texts, one JSON value each.
#[allow(dead_code, reason = "a type without values")]
pub(crate) struct Lines<T>(PhantomData<T>);

impl<T: JsonSchema> JsonSchema for Lines<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("LinesOf{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "contentMediaType": "application/json", "x-item": generator.subschema_for::<T>() })
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident: $schema:tt;)+) => {$(
        $(#[$doc])*
        pub(crate) enum $name {}

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )+};
}

kinds! {
    /// An instant.
    Instant: {
        "description": "An instant in RFC 3339 with an offset",
        "type": "string", "format": "date-time", "examples": ["2026-01-31T12:00:00Z"],
    };
    /// A form of parts.
    Form: { "description": "Parts of a form", "type": "string", "contentMediaType": "multipart/form-data" };
    /// An error as it is recorded: of a step, a run, an attempt.
    Failure: {
        "description": "Why it failed: `code` and `message`, and what else the callee said",
        "type": "object",
        "properties": { "code": { "type": "string" }, "message": { "type": "string" } },
    };
}

/// Statuses of runs, from the one list of them.
pub(crate) enum StatusWord {}

impl JsonSchema for StatusWord {
    fn schema_name() -> Cow<'static, str> {
        "RunStatus".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let words: Vec<&str> = RunStatus::ALL.iter().map(|status| status.as_str()).collect();
        json_schema!({ "description": "Status of a run", "type": "string", "enum": words })
    }
}
