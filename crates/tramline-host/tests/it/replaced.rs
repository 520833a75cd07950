//! When instances give way to others, and what calls with an instance of their own find.

use std::collections::BTreeSet;

use tramline_host::{CallError, Edit, Policy};

use crate::common::{Project, call, eventually, info, log_with, ok, stop};

const PID: &str =
    "addEventListener('beforeunload', (e) => console.log('left for ' + (e as CustomEvent).detail.reason));
    Deno.serve(() => new Response(String(Deno.pid)));";

#[tokio::test(flavor = "multi_thread")]
async fn an_old_instance_is_replaced_and_told_why() {
    let project = Project::new().function_with("aged", PID, |spec| spec.limits.max_age_ms = Some(1));
    let host = project.host().await;
    let (_, first) = call(&host, "aged").await.unwrap();
    log_with(&host, "left for wall_clock").await;
    eventually("its end", || {
        (!project.processes().contains(&first.parse().unwrap())).then_some(())
    })
    .await;
    let (_, second) = call(&host, "aged").await.unwrap();
    assert_ne!(first, second);
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_with_many_errors_that_nobody_caught_is_replaced() {
    let source = format!(
        "{}\nlet count = 0; globalThis.setInterval(() => {{ if (count++ < 200) Promise.reject(new Error('lost')); }}, 1);",
        PID
    );
    let project = Project::new().function("failing", &source);
    let host = project.host().await;
    let (_, first) = call(&host, "failing").await.unwrap();
    eventually("the instance's end", || {
        (!project.processes().contains(&first.parse().unwrap())).then_some(())
    })
    .await;
    let (_, second) = call(&host, "failing").await.unwrap();
    assert_ne!(first, second);
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_instance_of_one_function_goes_before_the_others() {
    let project = Project::new()
        .function_with("short", PID, |spec| spec.limits.idle_ms = Some(1))
        .function("long", PID);
    let host = project.host().await;
    assert!(call(&host, "short").await.is_ok());
    let (_, long) = call(&host, "long").await.unwrap();
    log_with(&host, "left for early_drop").await;
    eventually("the other one alone", || {
        (host.stats().instances == 1).then_some(())
    })
    .await;
    assert_eq!(call(&host, "long").await, ok(&long));
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minimum_is_ready_for_calls_that_get_one_of_their_own() {
    for policy in [Policy::PerRequest, Policy::Oneshot] {
        let mut project = Project::new().function_with("own", PID, |spec| {
            spec.policy = policy;
            spec.limits.min_instances = Some(2);
        });
        project.limits.prestart = 0;
        let host = project.host().await;
        let mut seen = BTreeSet::new();
        for _ in 0..3 {
            let ready = eventually("two that wait for a call", || {
                let processes: BTreeSet<String> = project.processes().iter().map(u32::to_string).collect();
                let waiting: BTreeSet<String> = processes.difference(&seen).cloned().collect();
                (waiting.len() == 2 && host.stats().instances >= 2).then_some(waiting)
            })
            .await;
            let (_, pid) = call(&host, "own").await.unwrap();
            assert!(seen.insert(pid.clone()), "{policy:?}: one served two calls");
            assert!(ready.contains(&pid), "{policy:?}: {pid} was not one of {ready:?}");
            eventually("the end of what served", || {
                (!project.processes().contains(&pid.parse().unwrap())).then_some(())
            })
            .await;
        }
        stop(&host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_that_does_not_load_is_kept_out_where_calls_have_their_own_instances() {
    let project = Project::new().function_with("own", PID, |spec| spec.policy = Policy::Oneshot);
    let host = project.host().await;
    assert!(call(&host, "own").await.is_ok());
    project.write("own/index.ts", "throw new Error('no configuration');");
    match host.reload("own").await {
        Some(Edit::Kept { reason }) => assert!(reason.contains("no configuration"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert!(call(&host, "own").await.is_ok());
    project.write("own/index.ts", &PID.replace("String(Deno.pid)", "'mended'"));
    assert_eq!(host.reload("own").await, Some(Edit::Live));
    assert_eq!(call(&host, "own").await, ok("mended"));
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_fails_now_and_then_is_broken_until_it_loads() {
    // the digits of its id are random
    let source = "if (Deno.env.get('SB_EXECUTION_ID')! < '5') throw new Error('not now');
        Deno.serve(() => new Response('loaded'));";
    let mut project = Project::new().function_with("moody", source, |spec| spec.policy = Policy::PerRequest);
    project.limits.prestart = 0;
    let host = project.host().await;
    let (mut failed, mut worked) = (false, false);
    while !(failed && worked) {
        match call(&host, "moody").await {
            Ok(answer) => {
                assert_eq!(Ok(answer), ok("loaded"));
                worked = true;
                assert_eq!(info(&host, "moody").state, tramline_host::FunctionState::Ready);
            }
            Err(CallError::Boot { message }) => {
                assert!(message.contains("not now"), "{message}");
                failed = true;
            }
            Err(error) => panic!("{error}"),
        }
    }
    stop(&host).await;
}
