//! docs/hazards.md is true: every hazard has its row, and every test that it names is there, one of them named after it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

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

#[test]
fn every_hazard_has_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = fs::read_to_string(root.join("docs/hazards.md")).unwrap();
    let mut known = BTreeSet::new();
    functions(&root.join("crates"), &mut known);
    let all = [('A', 13), ('B', 15), ('C', 13)]
        .into_iter()
        .flat_map(|(letter, count)| (1..=count).map(move |n| format!("{letter}{n}")))
        .filter(|hazard| hazard != "C8");
    for hazard in all {
        let begin = format!("| {hazard} |");
        let row = text.lines().find(|line| line.starts_with(&begin));
        let row = row.unwrap_or_else(|| panic!("{hazard} is not in the list"));
        let named: Vec<&str> = row
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|name| name.len() > 20)
            .collect();
        let prefix = format!("{}_", hazard.to_lowercase());
        assert!(
            named.iter().any(|name| name.starts_with(&prefix)),
            "no test of {hazard} is named after it"
        );
        for name in named {
            assert!(known.contains(name), "{hazard}: there is no test {name}");
        }
    }
}
