//! Authentication: tokens, API keys, guards of functions.

mod credentials;
mod guard;
mod jwks;
mod link;
mod remembered;
mod secret;
mod token;
mod webhook;

pub(crate) use credentials::{APIKEY, AuthFailure, Caller, Credentials, bearer};
pub(crate) use guard::{CronSecrets, GuardFailure, check};
pub use guard::{Guard, GuardAuth, Preflight};
pub use jwks::{Issuer, KeySource};
pub use link::LinkKey;
pub(crate) use link::{Link, LinkFailure};
pub use secret::Secret;
pub use token::{Claims, TokenError, TokenRules, Verifier};
pub use webhook::{WebhookRule, WebhookScheme};
