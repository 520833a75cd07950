//! The only unsafe code of this crate: a child that dies with the process that started it.
#![expect(
    unsafe_code,
    reason = "pre_exec is the only way to set the parent-death signal of a child"
)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::{prctl, signal::Signal};
use nix::unistd::{getpid, getppid};

/// Makes the kernel send `signal` to the child when the *thread* that spawns it ends (so spawn from a lasting thread).
///
/// `Command` runs this after it has changed the uid, which is needed: a change of credentials clears the setting.
pub(super) fn on_parent_death(command: &mut Command, signal: Signal) {
    let parent = getpid();
    let in_child = move || {
        prctl::set_pdeathsig(signal)?;
        // the parent may have died between fork and prctl; nobody would ever send the signal then
        if getppid() == parent {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(nix::libc::ESRCH))
        }
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; the closure makes two system calls
    // (prctl, getppid), takes no lock and does not allocate (errors are plain numbers).
    unsafe {
        command.pre_exec(in_child);
    }
}
