//! The gateway over real sockets, with scripted functions and a scripted control.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![expect(
    clippy::type_complexity,
    reason = "tables of cases are tuples that are read once"
)]

mod api;
mod api_requests;
mod backends;
mod cors;
mod doors;
mod errors;
mod guards;
mod health;
mod issuers;
mod jwt;
mod management;
mod operations;
mod proxying;
mod server;
mod streaming;
mod support;
mod workers;
