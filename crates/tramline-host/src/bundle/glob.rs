//! File patterns of `static_files`: `*` within a name, `**` over folders.

use std::path::{Path, PathBuf};

/// Folders entered at most; a pattern over a whole disk is a mistake.
const FOLDERS_MAX: usize = 10_000;

/// Files that match `pattern`, an absolute path.
pub fn expand(pattern: &Path) -> Vec<PathBuf> {
    let parts: Vec<&str> = pattern.iter().filter_map(|part| part.to_str()).collect();
    let fixed = parts.iter().take_while(|part| !part.contains('*')).count();
    let base: PathBuf = parts[..fixed].iter().filter(|part| **part != ".").collect();
    if fixed == parts.len() {
        return vec![base];
    }
    let mut found = Vec::new();
    let mut folders = 0;
    walk(&base, &parts[fixed..], &mut found, &mut folders);
    found.sort();
    found.dedup();
    found
}

fn walk(folder: &Path, parts: &[&str], found: &mut Vec<PathBuf>, folders: &mut usize) {
    let Some((part, rest)) = parts.split_first() else {
        return;
    };
    *folders += 1;
    if *folders > FOLDERS_MAX {
        return;
    }
    if *part == "**" {
        walk(folder, rest, found, folders);
    }
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        // links are not followed: they may form circles
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let Some(name) = name.to_str() else { continue };
        match (*part, is_folder) {
            ("**", true) => walk(&path, parts, found, folders),
            ("**", false) if rest.is_empty() => found.push(path),
            (_, true) if *part != "**" && matches(part, name) => walk(&path, rest, found, folders),
            (_, false) if rest.is_empty() && matches(part, name) => found.push(path),
            _ => {}
        }
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(rest) = name.strip_prefix(head) else {
        return false;
    };
    (0..=rest.len()).any(|skip| rest.is_char_boundary(skip) && matches(tail, &rest[skip..]))
}
