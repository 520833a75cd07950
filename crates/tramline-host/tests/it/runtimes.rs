//! Calls from runtimes that are not the host's own, and that end before it does.

use tramline_host::{Host, Policy};

use crate::common::{Project, call, eventually, log_with, ok, stop};

/// Makes calls one after the other in a runtime of their own, which has ended when this returns.
async fn call_elsewhere(host: &Host, names: &[&'static str]) -> Vec<Result<String, String>> {
    let (host, names) = (host.clone(), names.to_vec());
    let calls = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut answers = Vec::new();
            for name in names {
                let answer = call(&host, name).await;
                answers.push(answer.map(|(_, text)| text).map_err(|error| error.to_string()));
            }
            answers
        })
    });
    calls.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_may_come_from_runtimes_that_end() {
    let source = "let calls = 0;
        Deno.serve(() => {
            calls += 1;
            console.log('call ' + calls);
            return new Response('call ' + calls);
        });";
    let mut project = Project::new().function("shared", source).function_with(
        "fresh",
        "Deno.serve(() => new Response('fresh'));",
        |spec| {
            spec.policy = Policy::PerRequest;
        },
    );
    project.limits.prestart = 0;
    let host = project.host().await;
    // The instance is started by a runtime that is gone when it is called again.
    for (first, second) in [("call 1", "call 2"), ("call 3", "call 4")] {
        let answers = call_elsewhere(&host, &["shared", "fresh", "shared"]).await;
        let expected = [first, "fresh", second].map(|text| Ok(text.to_owned()));
        assert_eq!(answers, expected);
    }
    for number in 5..8 {
        assert_eq!(call(&host, "shared").await, ok(&format!("call {number}")));
    }
    // what it writes is read by somebody who lives
    for number in 1..8 {
        log_with(&host, &format!("call {number}")).await;
    }
    eventually("the end of all but the one that served them", || {
        (host.stats().instances == 1).then_some(())
    })
    .await;
    stop(&host).await;
}
