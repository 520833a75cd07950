//! The gateway over real sockets, with scripted functions and a scripted control.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![expect(
    clippy::type_complexity,
    reason = "tables of cases are tuples that are read once"
)]

mod access;
mod api;
mod api_fields;
mod api_requests;
mod backends;
mod closing;
mod cors;
mod doors;
mod errors;
mod floods;
mod guards;
mod harbour;
mod health;
mod idempotency;
mod issuers;
mod jwt;
mod jwt_attacks;
mod lanes;
mod links;
mod management;
mod openapi;
mod openapi_bodies;
mod operations;
mod peers;
mod projects;
mod proxying;
mod rates;
mod rolling;
mod schema;
mod server;
mod shelf;
mod smuggling;
mod streaming;
mod support;
mod tls;
mod trace;
mod uploads;
mod workers;
