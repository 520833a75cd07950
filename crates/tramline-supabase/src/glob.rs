//! File patterns as `config.toml` uses them: `*` and `?` within a path segment, `**` over segments.

use std::path::{Path, PathBuf};

/// Folders deeper than this below a pattern's fixed part are not searched: a project is not that deep, a loop of
/// symbolic links is.
const DEPTH_MAX: usize = 16;

/// The files below `base` that match `pattern`, sorted by path. A pattern without wildcards names one file.
pub(crate) fn expand(base: &Path, pattern: &str) -> Vec<PathBuf> {
    let segments: Vec<&str> = pattern
        .split('/')
        .filter(|s| !s.is_empty() && *s != ".")
        .collect();
    let start = if pattern.starts_with('/') {
        PathBuf::from("/")
    } else {
        base.to_path_buf()
    };
    let mut found = Vec::new();
    walk(&start, &segments, 0, &mut found);
    found.sort();
    found.dedup();
    found
}

fn walk(dir: &Path, segments: &[&str], depth: usize, found: &mut Vec<PathBuf>) {
    let Some((first, rest)) = segments.split_first() else {
        return;
    };
    if depth > DEPTH_MAX {
        return;
    }
    if !first.contains(['*', '?']) {
        let next = if *first == ".." {
            dir.join("..")
        } else {
            dir.join(first)
        };
        if rest.is_empty() {
            if next.is_file() {
                found.push(next);
            }
        } else {
            walk(&next, rest, depth + 1, found);
        }
        return;
    }
    if *first == "**" {
        walk(dir, rest, depth + 1, found);
    }
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if *first == "**" {
            if path.is_dir() {
                walk(&path, segments, depth + 1, found);
            } else if rest.is_empty() {
                found.push(path);
            }
        } else if segment_matches(first.as_bytes(), name.as_bytes()) {
            if rest.is_empty() {
                if path.is_file() {
                    found.push(path);
                }
            } else {
                walk(&path, rest, depth + 1, found);
            }
        }
    }
}

/// Whether a file name matches one segment of a pattern.
fn segment_matches(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some((b'*', rest)) => (0..=name.len()).any(|skip| segment_matches(rest, &name[skip..])),
        Some((b'?', rest)) => !name.is_empty() && segment_matches(rest, &name[1..]),
        Some((byte, rest)) => name.first() == Some(byte) && segment_matches(rest, &name[1..]),
    }
}
