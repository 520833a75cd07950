//! Which layers are active here: tried out, not looked up.

use std::path::Path;

use super::{Account, Layer, LayerStatus, SandboxConfig, cgroup, landlock, seccomp};

/// Every layer with its state on this machine, for a node with this state folder. Changes nothing but, where control
/// groups are delegated to this process, its own.
pub fn layers(config: &SandboxConfig, state_dir: &Path) -> Vec<LayerStatus> {
    let state = |layer| match layer {
        Layer::Group => Ok("own session and process group; ends with the node".to_owned()),
        Layer::Environment => Ok("empty; secrets come over the socket".to_owned()),
        Layer::Rlimits => Ok("private memory, open files, file size, no core dumps".to_owned()),
        Layer::Cgroup => cgroup::Parent::find().map(|_| "memory and threads".to_owned()),
        Layer::Uid => {
            Account::choose(config, state_dir).map(|account| format!("user {}", account.uid.as_raw()))
        }
        Layer::NoNewPrivs => no_new_privs(),
        Layer::Landlock => landlock::probe(),
        Layer::Seccomp => {
            seccomp::probe().map(|_| format!("{} system calls are refused", seccomp::refused()))
        }
        Layer::Permissions => Ok("Deno's: own folder, network by policy, no subprocesses".to_owned()),
    };
    Layer::ALL
        .into_iter()
        .map(|layer| {
            let outcome = state(layer);
            LayerStatus {
                layer,
                active: outcome.is_ok(),
                detail: outcome.unwrap_or_else(|missing| missing),
            }
        })
        .collect()
}

fn no_new_privs() -> Result<String, String> {
    let tried = std::thread::Builder::new().spawn(|| {
        rustix::thread::set_no_new_privs(true)?;
        rustix::thread::no_new_privs()
    });
    match tried.map(std::thread::JoinHandle::join) {
        Ok(Ok(Ok(true))) => Ok("no more rights by executing a file".into()),
        _ => Err("the kernel refuses it".into()),
    }
}
