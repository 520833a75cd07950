//! Random workflows through random histories: crashes at every point, stale and repeated events, requests of people.
//!
//! A history is one owner after another driving the same run over the same ledger. After every decision the rows must
//! build the run that is in memory; at the end it must have gone as the interpreter says.

use super::history::History;
use super::model::Model;

/// Histories per test; `TRAMLINE_SEEDS` asks for another number.
const SEEDS: u64 = 10_000;
/// Histories that share one workflow: compiling is the slow part.
const HISTORIES: u64 = 20;

fn seeds() -> u64 {
    std::env::var("TRAMLINE_SEEDS").map_or(SEEDS, |n| n.parse().expect("TRAMLINE_SEEDS is a number"))
}

fn for_each_history(test: impl Fn(&mut History<'_>)) {
    let mut model = None;
    for seed in 0..seeds() {
        if seed % HISTORIES == 0 {
            model = Some(Model::random(seed / HISTORIES));
        }
        let model = model.as_ref().expect("the first seed makes one");
        // The panic that follows tells what, this tells where.
        let _place = OnPanic(seed);
        test(&mut History::new(model, seed));
    }
}

struct OnPanic(u64);

impl Drop for OnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("history of seed {}", self.0);
        }
    }
}

/// Takeovers take no time and nobody interferes: the run goes exactly as the interpreter says.
#[test]
fn crashes_do_not_change_how_a_run_goes() {
    for_each_history(|history| {
        history.drive();
        history.check_exactly();
    });
}

/// Time passes between owners; people cancel, pause, resume and retry: the rules hold, and a generation that nobody cut
/// short ends as the interpreter says.
#[test]
fn rules_hold_whatever_happens() {
    for_each_history(|history| {
        history.people = true;
        history.gaps = true;
        history.drive();
    });
}
