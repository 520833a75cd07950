//! Processor time of this process, of Postgres and of peers: on a busy machine far steadier than rates.

use std::fmt;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use nix::unistd::Pid;

/// Clock ticks per second in `/proc`: a constant of the Linux ABI.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time of one side, in microseconds per item.
#[derive(Debug, Clone, Copy)]
pub struct PerItem {
    /// The engine or worker with its client.
    pub client: f64,
    /// Postgres with all its processes, or the peer's own server.
    pub server: f64,
}

impl fmt::Display for PerItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1} + {:.1} µs cpu (client + server)",
            self.client, self.server
        )
    }
}

/// Seconds used by this process, all threads.
pub fn own() -> f64 {
    used(UsageWho::RUSAGE_SELF)
}

/// Seconds used by the thread that asks.
pub fn thread() -> f64 {
    used(UsageWho::RUSAGE_THREAD)
}

fn used(who: UsageWho) -> f64 {
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    getrusage(who).map_or(0.0, |usage| {
        seconds(usage.user_time()) + seconds(usage.system_time())
    })
}

/// Seconds used by a process, all threads, without its children.
pub fn process(pid: u32) -> f64 {
    Stat::read(pid).map_or(0.0, |stat| stat.own)
}

/// Seconds used by another thread of this process.
pub fn thread_of_own(thread: Pid) -> f64 {
    Stat::read_from(&format!("/proc/self/task/{thread}/stat")).map_or(0.0, |stat| stat.own)
}

/// Seconds used by a process and by its children, living and waited for.
pub fn family(pid: u32) -> f64 {
    let children = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let child: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = Stat::read(child)?;
            (stat.parent == pid).then_some(stat.own)
        });
    Stat::read(pid).map_or(0.0, |stat| stat.own + stat.waited_for) + children.sum::<f64>()
}

struct Stat {
    parent: u32,
    own: f64,
    waited_for: f64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        Self::read_from(&format!("/proc/{pid}/stat"))
    }

    fn read_from(path: &str) -> Option<Self> {
        let text = std::fs::read_to_string(path).ok()?;
        // The name may hold anything, so fields are counted from its closing bracket; the first is the third of all.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            own: (ticks(11)? + ticks(12)?) / TICKS_PER_SECOND,
            waited_for: (ticks(13)? + ticks(14)?) / TICKS_PER_SECOND,
        })
    }
}
