//! The Supabase surface of tramline: what a project folder with `supabase/` says, and what its clients expect to find.
//!
//! Owns: reading `supabase/config.toml` and the `.env` files, discovering functions, workflows and schedules, the
//! keys and the environment of functions, running the project's SQL migrations, `/rest/v1` and `/auth/v1`.
//! Does not own: verifying requests (the gateway does, and hands the claims on as [`VerifiedClaims`]), running
//! functions (the host), the `ops` schema and the SQL shims (the store).

pub mod auth;
pub mod config;
mod connect;
pub mod dotenv;
pub mod environment;
mod glob;
pub mod keys;
pub mod migrations;
pub mod project;
pub mod rest;
pub mod sql;
pub mod surface;
mod text;

pub use config::ProjectConfig;
pub use keys::LocalKeys;
pub use project::Project;
pub use text::Warning;

/// The claims of a JWT that the gateway has verified, put into the request's extensions.
///
/// The routers of this crate believe nothing else: a request without it is answered 401, and whatever
/// `Authorization` header it carries is not looked at. The value is the JWT's payload, a JSON object.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifiedClaims(pub serde_json::Value);
