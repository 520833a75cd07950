//! Memory and children of processes, as the kernel tells them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Kilobytes in what `/proc` calls kB.
const KB_PER_MB: f64 = 1024.0;

/// MB of a process that are in memory, shared pages included.
pub fn resident_mb(pid: u32) -> Result<f64> {
    sum_of(Path::new(&format!("/proc/{pid}/status")), &["VmRSS:"])
}

/// The most MB of a process that have been in memory since [`forget_peak`].
pub fn peak_mb(pid: u32) -> Result<f64> {
    sum_of(Path::new(&format!("/proc/{pid}/status")), &["VmHWM:"])
}

/// Begins to look for the peak anew.
pub fn forget_peak(pid: u32) -> Result<()> {
    let path = format!("/proc/{pid}/clear_refs");
    // proc(5): 5 sets the peak to what is in memory now
    std::fs::write(&path, "5").with_context(|| format!("write {path}"))
}

/// MB of a process that are its alone: what ending it would give back.
pub fn private_mb(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    sum_of(Path::new(&path), &["Private_Clean:", "Private_Dirty:"])
}

fn sum_of(path: &Path, names: &[&str]) -> Result<f64> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let mut sum = 0.0;
    for name in names {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let value = line.and_then(|line| line.split_whitespace().next());
        let kb: f64 = value
            .and_then(|value| value.parse().ok())
            .with_context(|| format!("{} has no {name}", path.display()))?;
        sum += kb;
    }
    Ok(sum / KB_PER_MB)
}

/// Processes below `pid`, at any depth, that run a program.
pub fn below(pid: u32, program: &Path) -> Vec<u32> {
    let mut found = Vec::new();
    let mut parents = vec![pid];
    while let Some(parent) = parents.pop() {
        for child in children(parent) {
            parents.push(child);
            let runs: Option<PathBuf> = std::fs::read_link(format!("/proc/{child}/exe")).ok();
            if runs.as_deref() == Some(program) {
                found.push(child);
            }
        }
    }
    found
}

fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|text| {
            text.split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<u32>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_of_its_own_within_all_of_it() {
        let pid = std::process::id();
        let (private, resident) = (private_mb(pid).unwrap(), resident_mb(pid).unwrap());
        assert!(
            private > 0.0 && private <= resident * 1.5,
            "{private} of {resident}"
        );
    }

    #[test]
    fn the_peak_is_looked_for_anew_when_asked() {
        let pid = std::process::id();
        forget_peak(pid).unwrap();
        let before = peak_mb(pid).unwrap();
        let large = vec![1_u8; 64 << 20];
        assert_eq!(
            large.iter().map(|byte| usize::from(*byte)).sum::<usize>(),
            64 << 20
        );
        let during = peak_mb(pid).unwrap();
        assert!(during > before + 32.0, "{during} after {before}");
    }

    #[test]
    fn a_child_is_found_by_its_program() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let program = std::fs::read_link(format!("/proc/{}/exe", child.id())).unwrap();
        let found = below(std::process::id(), &program);
        let elsewhere = below(std::process::id(), Path::new("/no/such/program"));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.contains(&child.id()) && elsewhere.is_empty());
    }
}
