//! How many instances there are, and when they start and end.

use std::collections::BTreeSet;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tramline_host::{CallError, FunctionLimits};

use crate::common::{Project, call, context, eventually, get, ok, stop, text, within};

const PID: &str = "Deno.serve(async (req) => {
    if (req.url.endsWith('/wait')) await new Promise((r) => addEventListener('go', r));
    if (req.url.endsWith('/go')) dispatchEvent(new Event('go'));
    return new Response(String(Deno.pid)); });";

#[tokio::test(flavor = "multi_thread")]
async fn demand_starts_instances_up_to_the_maximum_and_no_more() {
    let project = Project::new().function_with("pid", PID, |spec| {
        spec.limits = FunctionLimits {
            max_instances: Some(2),
            max_in_flight: Some(40),
            ..FunctionLimits::default()
        };
    });
    let host = project.host().await;
    let mut waiting = Vec::new();
    let enter = || {
        let host = host.clone();
        tokio::spawn(async move { host.call("pid", get("/pid/wait"), context()).await })
    };
    // enough for the first instance to be busy, and one that finds it so
    waiting.extend((0..20).map(|_| enter()));
    eventually("the second instance", || {
        // a machine that is busy itself takes a while, and the first one has no room for all
        if waiting.len() < 39 {
            waiting.push(enter());
        }
        (host.stats().instances == 2).then_some(())
    })
    .await;
    eventually("all calls to be in flight", || {
        // one that came before the second instance took calls may have been refused
        let going = waiting.iter().filter(|call| !call.is_finished()).count();
        waiting.extend((going..80).map(|_| enter()));
        (host.stats().in_flight == 80).then_some(())
    })
    .await;
    assert_eq!(call(&host, "pid").await, Err(CallError::Overloaded));
    assert_eq!(host.stats().instances, 2);
    let pids: Vec<u32> = project.processes();
    assert_eq!(pids.len(), 2);
    // both ended, their calls fail: nothing is left in flight
    within("the stop", host.stop(std::time::Duration::ZERO)).await;
    for call in waiting {
        assert!(call.await.unwrap().is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minimum_is_kept_warm_and_the_others_go_when_idle() {
    let mut project = Project::new()
        .function_with("kept", PID, |spec| spec.limits.min_instances = Some(2))
        .function("idle", PID);
    project.limits.idle_ms = 0;
    project.limits.prestart = 0;
    let host = project.host().await;
    eventually("two instances without a call", || {
        (host.stats().instances == 2).then_some(())
    })
    .await;
    let (_, first) = call(&host, "idle").await.unwrap();
    eventually("the idle one's end", || {
        (!project.processes().contains(&first.parse().unwrap())).then_some(())
    })
    .await;
    eventually("the minimum alone", || {
        (host.stats().instances == 2).then_some(())
    })
    .await;
    // one that dies is replaced
    let pids: BTreeSet<u32> = project.processes().into_iter().collect();
    let (_, victim) = call(&host, "kept").await.unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(victim.parse().unwrap()).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    eventually("its replacement", || {
        let now: BTreeSet<u32> = project.processes().into_iter().collect();
        (now.len() == 2 && now != pids && host.stats().instances == 2).then_some(())
    })
    .await;
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn warming_up_starts_the_instance_that_the_call_then_gets() {
    let mut project = Project::new().function("pid", PID);
    project.limits.prestart = 0;
    project.limits.spare_workers = 1;
    let host = project.host().await;
    eventually("the spare worker", || (host.stats().spares == 1).then_some(())).await;
    let spare = project.processes()[0];
    assert_eq!(host.stats().starts_from_spare, 0);
    within("the warm-up", host.warm("pid")).await.unwrap();
    assert_eq!(call(&host, "pid").await, ok(&spare.to_string()));
    let stats = host.stats();
    assert_eq!(
        (stats.starts_from_spare, stats.starts_fresh, stats.instances),
        (1, 0, 1)
    );
    assert!(stats.starts_us > 0);
    assert_eq!(host.warm("missing").await, Err(CallError::NotFound));
    stop(&host).await;
    assert_eq!(host.warm("pid").await, Err(CallError::Stopping));
}

/// Kilobytes that only this process has.
fn private_kb(pid: u32) -> u64 {
    let told = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = told
        .lines()
        .find_map(|line| line.strip_prefix("Private_Dirty:"))
        .unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_with_modules_of_node_find_them_loaded_and_the_others_do_without() {
    let node = format!(
        "import http from 'node:http'; import zlib from 'node:zlib'; const all = [http, zlib]; {PID}"
    );
    let mut project = Project::new()
        .function("bare", PID)
        .function("other-bare", PID)
        .function("node", &node)
        // a global of Node is a module too
        .function("global", &format!("console.log(typeof process); {PID}"));
    project.limits.prestart = 0;
    project.limits.spare_workers = 1;
    let host = project.host().await;
    // the first ones of a project compile what the later ones find compiled, which shows in their memory
    for names in [["node", "bare"], ["global", "other-bare"]] {
        eventually("a spare worker of each kind", || {
            (host.stats().spares == 2).then_some(())
        })
        .await;
        let live = host.stats().instances;
        for name in names {
            assert_eq!(call(&host, name).await.unwrap().0, 200);
        }
        assert_eq!(host.stats().starts_from_spare, live + 2);
    }
    eventually("a spare worker of each kind", || {
        (host.stats().spares == 2).then_some(())
    })
    .await;
    let mut spares = project.processes();
    for name in ["node", "bare", "global", "other-bare"] {
        let pid = call(&host, name).await.unwrap().1.parse::<u32>().unwrap();
        spares.retain(|spare| *spare != pid);
    }
    let kilobytes: Vec<u64> = spares.iter().map(|pid| private_kb(*pid)).collect();
    assert!(
        spares.len() == 2 && kilobytes[0].abs_diff(kilobytes[1]) > 1_500,
        "{kilobytes:?}"
    );
    let loaded = spares[usize::from(kilobytes[1] > kilobytes[0])];
    project.write(
        "global/index.ts",
        &format!("console.log('edited', typeof process); {PID}"),
    );
    assert_eq!(host.reload("global").await, Some(tramline_host::Edit::Live));
    assert_eq!(call(&host, "global").await, ok(&loaded.to_string()));
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_replaced_after_its_number_of_calls() {
    let project = Project::new().function_with("pid", PID, |spec| spec.limits.max_calls = Some(3));
    let host = project.host().await;
    let mut seen = BTreeSet::new();
    within("another instance", async {
        while seen.len() < 2 {
            seen.insert(call(&host, "pid").await.unwrap().1);
        }
    })
    .await;
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_debugger_can_attach_and_no_limit_ends_the_stopped_program() {
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let mut project = Project::new().function_with("debugged", PID, |spec| {
        spec.inspect = Some(port);
        spec.limits.cpu_ms = Some(10);
    });
    project.limits.hang_ms = 100;
    let host = project.host().await;
    let response = within("an answer", host.call("debugged", get("/debugged"), context())).await;
    let pid = text(response.unwrap()).await;
    let mut inspector = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    inspector
        .write_all(b"GET /json/list HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut told = String::new();
    within("the inspector", inspector.read_to_string(&mut told))
        .await
        .unwrap();
    assert!(told.contains("webSocketDebuggerUrl"), "{told}");
    // an edit takes the port over
    project.write(
        "debugged/index.ts",
        &PID.replace("String(Deno.pid)", "'edited ' + Deno.pid"),
    );
    assert_eq!(host.reload("debugged").await, Some(tramline_host::Edit::Live));
    let (_, edited) = call(&host, "debugged").await.unwrap();
    assert!(
        edited.starts_with("edited ") && !edited.ends_with(&pid),
        "{edited}"
    );
    stop(&host).await;
}
