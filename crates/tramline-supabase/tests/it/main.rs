//! Tests of the Supabase surface: pure parts on text, the rest against a real Postgres and over real HTTP.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up must fail")]

mod auth;
mod config;
mod dotenv;
mod environment;
mod keys;
mod migrations;
mod project;
mod rest;
mod rest_access;
mod rest_writes;
mod sql;
mod support;
mod surface;
