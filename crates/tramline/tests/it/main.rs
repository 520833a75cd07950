//! The built program, as its users meet it: the command line, the settings, `dev` from start to stop.

#![expect(clippy::unwrap_used, reason = "a failed helper is a failed test")]

mod churn;
mod commands;
mod crm;
mod deploy;
mod dev;
mod edge;
mod functions;
mod invoke;
mod openapi;
mod operations;
mod scaffold;
mod serve;
mod settings;
mod starts;
mod supabase_cli;
mod support;
mod workers;
