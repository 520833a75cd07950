//! What the gateway does with a function's requests beside passing them on: rules that need the whole body.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::schema::BodySchema;

/// The rules of one function.
#[derive(Debug, Clone, Default)]
pub struct EdgeRules {
    /// What the bodies of POST, PUT and PATCH must be like.
    pub schema: Option<Arc<BodySchema>>,
    /// How long the answer to a request with `Idempotency-Key` is kept; none: the header is the function's own business.
    pub keep_answers: Option<Duration>,
}

/// The rules by function; a function that is missing has none.
pub type Edges = BTreeMap<String, EdgeRules>;
