//! The tests of the testkit, and of the embedded Postgres that it stands on.
#![expect(
    clippy::unwrap_used,
    reason = "the helpers beside the tests are tests as well"
)]

mod chaos;
mod databases;
mod embedded;
mod lists;
mod place;
mod processes;
mod project;
