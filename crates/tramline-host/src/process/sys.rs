//! The only unsafe code of the crate: what a child does to itself between `fork` and `exec`, and waiting on its pidfd.

use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::Mode;
use rustix::process::{Pid, Resource, Rlimit, Signal};
use rustix::thread::UnshareFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sandbox::Jail;

/// Kernel limits of one child.
#[derive(Debug, Clone, Copy)]
pub struct Rlimits {
    /// Bytes of private writable memory (`RLIMIT_DATA`). None leaves it as it is.
    pub data_bytes: Option<u64>,
    /// Open files.
    pub open_files: u64,
    /// Bytes of one file.
    pub file_bytes: u64,
    /// Threads and processes of the child's user (`RLIMIT_NPROC`): counts over all of them, so only for a user that is
    /// not ours.
    pub user_threads: u64,
}

/// Files of a child are private to its user.
const CHILD_UMASK: u32 = 0o077;

/// Puts the child into its own session and group, ties its life to the spawning thread, and limits it.
///
/// `parent` is the pid of this process: when it died between fork and the death signal being set, the child ends itself.
/// The order matters: what needs rights comes first, and a change of user takes the death signal back.
pub fn confine(command: &mut Command, parent: Pid, limits: Rlimits, mut jail: Jail) {
    let steps = move || -> std::io::Result<()> {
        rustix::process::setsid()?;
        rustix::process::umask(Mode::from_raw_mode(CHILD_UMASK));
        leave_descriptors();
        if let Some(group) = &mut jail.cgroup {
            group.join()?;
        }
        // a core dump would hold the function's secrets
        limit(Resource::Core, 0)?;
        limit(Resource::Nofile, limits.open_files)?;
        limit(Resource::Fsize, limits.file_bytes)?;
        ignore_file_size_signal();
        if let Some(bytes) = limits.data_bytes {
            limit(Resource::Data, bytes)?;
        }
        if jail.without_network {
            // only root may; Deno's permissions and Landlock refuse connections in any case
            let _ = unshare(UnshareFlags::NEWNET);
        }
        if let Some(account) = jail.account {
            limit(Resource::Nproc, limits.user_threads)?;
            rustix::thread::set_thread_groups(&[])?;
            rustix::thread::set_thread_res_gid(account.gid, account.gid, account.gid)?;
            rustix::thread::set_thread_res_uid(account.uid, account.uid, account.uid)?;
        }
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if rustix::process::getppid() != Some(parent) {
            return Err(std::io::Error::from_raw_os_error(
                rustix::io::Errno::SRCH.raw_os_error(),
            ));
        }
        rustix::thread::set_no_new_privs(true)?;
        if let Some(rules) = jail.landlock.take() {
            rules.apply()?;
        }
        if let Some(filters) = &jail.filters {
            filters.apply()?;
        }
        Ok(())
    };
    #[expect(
        unsafe_code,
        reason = "pre_exec is the only way to run code between fork and exec"
    )]
    // SAFETY: the closure makes plain system calls only (rustix's raw back end); it allocates nothing, takes no lock,
    // and everything it captures is Copy.
    unsafe {
        command.pre_exec(steps);
    }
}

/// Gives the calling thread namespaces of its own.
pub fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    #[expect(
        unsafe_code,
        reason = "rustix marks it unsafe for the flag that splits descriptor tables"
    )]
    // SAFETY: nobody here asks for a descriptor table of its own, the one flag that may harm other threads' safety.
    unsafe {
        rustix::thread::unshare_unsafe(flags)
    }
}

/// Whoever started this process may have left it open files without the mark that keeps them from its children. Kernels
/// before 5.11 do not know this; what this process opens itself has the mark.
fn leave_descriptors() {
    /// After standard error.
    const FIRST: libc::c_uint = 3;
    #[expect(unsafe_code, reason = "close_range is not in rustix")]
    // SAFETY: one system call that marks descriptors, and closes none before exec.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            FIRST,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        );
    }
}

/// A write beyond the largest file then fails with EFBIG; by default the kernel ends the process.
fn ignore_file_size_signal() {
    #[expect(unsafe_code, reason = "signal dispositions are not in rustix")]
    // SAFETY: one system call; SIG_IGN runs no code of ours.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

/// Lowers a limit; never tries to raise the hard one, which only root may.
fn limit(resource: Resource, wanted: u64) -> std::io::Result<()> {
    let hard = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let value = Some(wanted.min(hard));
    rustix::process::setrlimit(
        resource,
        Rlimit {
            current: value,
            maximum: value,
        },
    )?;
    Ok(())
}

/// A descriptor that tells when its process has ended.
pub fn awaitable(pidfd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    #[expect(unsafe_code, reason = "tokio cannot know that the descriptor stays open")]
    // SAFETY: the AsyncFd owns the descriptor, nobody else has it, and OwnedFd always gives out the same one.
    let registered = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
    Ok(registered?)
}
