//! Authentication: tokens, API keys, guards of functions.

mod credentials;
mod guard;
mod secret;
mod token;

pub(crate) use credentials::{APIKEY, AuthFailure, Caller, Credentials};
pub(crate) use guard::{CronSecrets, GuardFailure, check};
pub use guard::{Guard, GuardAuth, Preflight};
pub use secret::Secret;
pub use token::{Claims, TokenError, TokenRules};
