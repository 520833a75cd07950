//! A list of system calls that are refused.
//!
//! A deny list, because V8, tokio and the C library use hundreds of calls that change with every release; what is named
//! here reaches the kernel's rarely used and often broken parts, or other processes.

use std::collections::BTreeMap;
use std::sync::Arc;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Op, SeccompCondition as Condition,
    SeccompFilter, SeccompRule as Rule, TargetArch,
};

/// Refused with EPERM.
const DENIED: &[i64] = &[
    // other processes
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_perf_event_open,
    // namespaces and file systems
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_quotactl,
    libc::SYS_fanotify_init,
    // programs in the kernel, keys, memory handed between processes
    libc::SYS_bpf,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_userfaultfd,
    // the machine
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_personality,
    libc::SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];
/// Refused as if the kernel did not know them: programs then use the older call, whose arguments can be looked at.
const UNKNOWN: &[i64] = &[
    libc::SYS_clone3,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];
/// `clone` with any of them makes a namespace.
const NEW_NAMESPACES: &[i32] = &[
    libc::CLONE_NEWNS,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWCGROUP,
];
/// Sockets of other families are refused: raw packets, virtual machines, the kernel's ciphers, Bluetooth, …
const FAMILIES: &[i32] = &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
/// The same calls once more, with numbers of the x32 interface, which the architecture check lets pass.
#[cfg(target_arch = "x86_64")]
const X32: i64 = 0x4000_0000;

/// Compiled filters, which a child applies to itself.
#[derive(Debug, Clone)]
pub struct Filters(Arc<[BpfProgram]>);

impl Filters {
    /// Restricts the calling thread, for good. Makes system calls only, so it may run between fork and exec.
    pub fn apply(&self) -> std::io::Result<()> {
        for filter in self.0.iter() {
            if seccompiler::apply_filter(filter).is_err() {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    }
}

fn compile() -> Result<Filters, seccompiler::Error> {
    let arch: TargetArch = std::env::consts::ARCH
        .try_into()
        .map_err(seccompiler::Error::Backend)?;
    let filter = |rules, errno| -> Result<BpfProgram, seccompiler::Error> {
        let refuse = SeccompAction::Errno(errno);
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch);
        filter
            .and_then(BpfProgram::try_from)
            .map_err(seccompiler::Error::Backend)
    };
    let mut denied: BTreeMap<i64, Vec<Rule>> = BTreeMap::new();
    for call in DENIED {
        denied.insert(*call, Vec::new());
    }
    let mut namespaces = Vec::new();
    for flag in NEW_NAMESPACES {
        let bit = *flag as u32 as u64;
        namespaces.push(rule(vec![condition(0, Op::MaskedEq(bit), bit)?])?);
    }
    denied.insert(libc::SYS_clone, namespaces);
    let mut families = Vec::new();
    for family in FAMILIES {
        families.push(condition(0, Op::Ne, *family as u64)?);
    }
    denied.insert(libc::SYS_socket, vec![rule(families)?]);
    let unknown: BTreeMap<i64, Vec<Rule>> = UNKNOWN.iter().map(|call| (*call, Vec::new())).collect();
    Ok(Filters(Arc::from([
        filter(with_x32(denied), libc::EPERM as u32)?,
        filter(with_x32(unknown), libc::ENOSYS as u32)?,
    ])))
}

fn with_x32(rules: BTreeMap<i64, Vec<Rule>>) -> BTreeMap<i64, Vec<Rule>> {
    #[cfg(target_arch = "x86_64")]
    let rules = {
        let mut all = rules.clone();
        all.extend(rules.into_iter().map(|(call, rules)| (call | X32, rules)));
        all
    };
    rules
}

fn rule(conditions: Vec<Condition>) -> Result<Rule, seccompiler::Error> {
    Rule::new(conditions).map_err(seccompiler::Error::Backend)
}

fn condition(argument: u8, op: Op, value: u64) -> Result<Condition, seccompiler::Error> {
    Condition::new(argument, Width::Dword, op, value).map_err(seccompiler::Error::Backend)
}

/// Applies the filters to a thread of its own and tries a call that must then fail.
pub fn probe() -> Result<Filters, String> {
    let filters = compile().map_err(|error| format!("the filter cannot be made: {error}"))?;
    let tried = filters.clone();
    let outcome = std::thread::Builder::new().spawn(move || {
        rustix::thread::set_no_new_privs(true)?;
        tried.apply()?;
        let refused = crate::process::unshare(rustix::thread::UnshareFlags::empty());
        Ok::<bool, std::io::Error>(refused == Err(rustix::io::Errno::PERM))
    });
    match outcome.map(std::thread::JoinHandle::join) {
        Ok(Ok(Ok(true))) => Ok(filters),
        Ok(Ok(Ok(false))) => Err("its filter had no effect".into()),
        Ok(Ok(Err(error))) => Err(format!("the kernel refuses the filter: {error}")),
        _ => Err("it could not be tried: no thread".into()),
    }
}

/// How many system calls are refused.
pub fn refused() -> usize {
    DENIED.len() + UNKNOWN.len()
}
