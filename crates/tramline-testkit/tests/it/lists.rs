//! docs/attacks.md and docs/hazards.md are true: every test that they name is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A shorter word in backticks is something else: a column, a state.
const NAME_MIN: usize = 20;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Names of all functions in the Rust files below a folder.
fn functions(folder: &Path, into: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() && entry.file_name() != "target" {
            functions(&path, into);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let names = text
                .split("fn ")
                .skip(1)
                .filter_map(|rest| rest.split(['(', '<']).next());
            into.extend(names.map(str::to_owned));
        }
    }
}

/// The rows of a list's tables, each with the tests that it names, all of which are there.
fn rows(list: &str) -> Vec<(String, Vec<String>)> {
    let mut known = BTreeSet::new();
    functions(&root().join("crates"), &mut known);
    let text = fs::read_to_string(root().join(list)).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| "));
    rows.map(|row| {
        let words = row.split('`').skip(1).step_by(2);
        let named: Vec<String> = words
            .filter(|word| word.len() > NAME_MIN)
            .map(str::to_owned)
            .collect();
        for name in &named {
            assert!(known.contains(name), "there is no test {name}: {row}");
        }
        (row.to_owned(), named)
    })
    .collect()
}

#[test]
fn every_attack_has_tests_that_exist() {
    let rows = rows("docs/attacks.md");
    let attacks: Vec<_> = rows
        .iter()
        .filter(|(row, _)| !row.starts_with("| what |"))
        .collect();
    assert!(attacks.len() > 30, "{} rows were read", attacks.len());
    for (row, named) in attacks {
        assert!(!named.is_empty(), "no test: {row}");
    }
}

#[test]
fn every_hazard_has_tests_that_exist() {
    let rows = rows("docs/hazards.md");
    let all = [('A', 13), ('B', 15), ('C', 13)]
        .into_iter()
        .flat_map(|(letter, count)| (1..=count).map(move |n| format!("{letter}{n}")))
        .filter(|hazard| hazard != "C8");
    for hazard in all {
        let begin = format!("| {hazard} |");
        let row = rows.iter().find(|(row, _)| row.starts_with(&begin));
        let (_, named) = row.unwrap_or_else(|| panic!("{hazard} is not in the list"));
        let prefix = format!("{}_", hazard.to_lowercase());
        assert!(
            named.iter().any(|name| name.starts_with(&prefix)),
            "no test of {hazard} is named after it"
        );
    }
}
