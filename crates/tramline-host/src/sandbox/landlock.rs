//! Landlock: which files a child may reach, whatever its program believes about permissions.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, NetPort, PathBeneath, PathFd, Ruleset as Builder,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};

use super::existing;

/// The newest rules that were tried with Deno; older kernels apply what they know of them.
const TRIED: ABI = ABI::V7;

/// What every program needs: shared libraries, name resolution, certificates, time zones, facts about the machine.
const SYSTEM_READ: &[&str] = &[
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/etc/ld.so.cache",
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/localtime",
    "/etc/ssl/certs",
    "/etc/ssl/cert.pem",
    "/etc/ssl/openssl.cnf",
    "/etc/pki",
    "/etc/ca-certificates",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/usr/share/zoneinfo",
    "/usr/share/pki",
    "/dev/urandom",
    "/dev/random",
    "/dev/zero",
    "/sys/devices/system/cpu",
    "/proc/meminfo",
    "/proc/cpuinfo",
    "/proc/sys/kernel/osrelease",
    "/proc/sys/vm/overcommit_memory",
];
const SYSTEM_WRITE: &[&str] = &["/dev/null"];
/// They load every program; nothing else of the system may be executed.
const LOADERS: &[&str] = &["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];

/// What a child may do with files, beyond what every program needs.
#[derive(Debug, Default)]
pub struct Files {
    /// Files, or folders with everything below.
    pub read: Vec<PathBuf>,
    /// Folders whose files may be read by who knows their names: they cannot be listed.
    pub known_names: Vec<PathBuf>,
    pub execute: Vec<PathBuf>,
    /// Everything but devices, links and pipes may be made below.
    pub write: Vec<PathBuf>,
}

/// What a child may do with TCP. Addresses cannot be told apart here, ports can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tcp {
    /// It may connect, but not listen.
    Connect,
    /// It may connect to these ports.
    Ports(Vec<u16>),
}

/// Rules that are ready to be applied by a child.
#[derive(Debug)]
pub struct Ruleset(RulesetCreated);

impl Ruleset {
    /// Restricts the calling thread, for good. Makes system calls only, so it may run between fork and exec.
    pub fn apply(self) -> std::io::Result<()> {
        match self.0.restrict_self() {
            Ok(status) if status.ruleset != RulesetStatus::NotEnforced => Ok(()),
            // no text: this process must not allocate
            _ => Err(std::io::Error::from_raw_os_error(
                rustix::io::Errno::PERM.raw_os_error(),
            )),
        }
    }
}

pub fn ruleset(files: &Files, tcp: &Tcp, listen: Option<u16>) -> std::io::Result<Ruleset> {
    let failed = std::io::Error::other::<landlock::RulesetError>;
    let (net, ports) = match tcp {
        Tcp::Connect => (AccessNet::BindTcp.into(), &[][..]),
        Tcp::Ports(ports) => (AccessNet::from_all(TRIED), ports.as_slice()),
    };
    let mut rules = Builder::default()
        .handle_access(AccessFs::from_all(TRIED))
        .and_then(|rules| rules.handle_access(net))
        .and_then(|rules| rules.scope(Scope::from_all(TRIED)))
        .and_then(Builder::create)
        .map_err(failed)?;
    if let Some(port) = listen {
        let rule = NetPort::new(port, AccessNet::BindTcp);
        rules = rules.add_rule(rule).map_err(std::io::Error::other)?;
    }
    for port in ports {
        let rule = NetPort::new(*port, AccessNet::ConnectTcp);
        rules = rules.add_rule(rule).map_err(std::io::Error::other)?;
    }
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let execute = AccessFs::ReadFile | AccessFs::Execute;
    let made: BitFlags<AccessFs> =
        AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::MakeFifo | AccessFs::MakeSym;
    let write = read | (AccessFs::from_write(TRIED) & !made & !BitFlags::from(AccessFs::IoctlDev));
    for (paths, access) in [
        (existing(SYSTEM_READ).collect(), read),
        (existing(LOADERS).collect(), execute),
        (
            existing(SYSTEM_WRITE).collect(),
            AccessFs::ReadFile | AccessFs::WriteFile,
        ),
        (files.read.clone(), read),
        (files.known_names.clone(), AccessFs::ReadFile.into()),
        (files.execute.clone(), execute),
        (files.write.clone(), write),
    ] {
        for path in paths {
            rules = add(rules, &path, access)?;
        }
    }
    Ok(Ruleset(rules))
}

fn add(rules: RulesetCreated, path: &Path, access: BitFlags<AccessFs>) -> std::io::Result<RulesetCreated> {
    let opened = PathFd::new(path).map_err(std::io::Error::other)?;
    let access = match path.is_dir() {
        true => access,
        false => access & AccessFs::from_file(TRIED),
    };
    rules
        .add_rule(PathBeneath::new(opened, access))
        .map_err(std::io::Error::other)
}

/// Restricts a thread of its own and tries what must then fail. An error says what is missing.
pub fn probe() -> Result<String, String> {
    let tried = std::thread::Builder::new().spawn(|| {
        let rules = Builder::default()
            .handle_access(AccessFs::from_all(TRIED))
            .and_then(|rules| rules.scope(Scope::from_all(TRIED)))
            .and_then(Builder::create);
        let status = match rules.and_then(RulesetCreated::restrict_self) {
            Ok(status) => status,
            Err(error) => return Err(format!("the kernel refuses it: {error}")),
        };
        if status.ruleset == RulesetStatus::NotEnforced {
            return Err("the kernel does not have it, or it was not switched on at boot (`lsm=`)".to_owned());
        }
        match std::fs::read("/proc/self/stat") {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                let signals = match status.ruleset {
                    RulesetStatus::FullyEnforced => "files, listening sockets, signals",
                    _ => "files; this kernel is too old for some of listening sockets, signals, devices",
                };
                Ok(signals.to_owned())
            }
            _ => Err("its rules had no effect".to_owned()),
        }
    });
    match tried.map(std::thread::JoinHandle::join) {
        Ok(Ok(outcome)) => outcome,
        _ => Err("it could not be tried: no thread".into()),
    }
}
