//! The gateway over real sockets, with scripted functions and a scripted control.

mod api;
mod api_requests;
mod backends;
mod cors;
mod errors;
mod guards;
mod health;
mod jwt;
mod proxying;
mod server;
mod streaming;
mod support;
