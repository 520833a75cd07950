//! Two projects, each with a gateway of its own: what opens one opens nothing of the other.

use axum::Router;
use serde_json::json;
use tramline_gateway::{CallOrigin, CallTokens, Guard, GuardAuth, Keys, ROUTES, Right, Secret};

use crate::api::{call, name_for};
use crate::support::*;

struct TestProject {
    gate: Gate,
    /// What its people and programs show, by name.
    credentials: Vec<(&'static str, String)>,
    cron: String,
    /// A publishable key, which goes in another header.
    key: String,
    /// Says that a live run of the project calls.
    origin: String,
}

async fn project(name: &'static str) -> TestProject {
    let secret = format!("the jwt secret of {name}, long enough to sign");
    let signed = |claims| {
        sign_parts(
            &encode(&json!({ "alg": "HS256", "typ": "JWT" })),
            &encode(&claims),
            &secret,
        )
    };
    // who it is and until when is the same in both: nothing but the signature tells them apart
    let role = |role: &str| signed(json!({ "iss": "supabase-demo", "role": role, "exp": 4_000_000_000_u64 }));
    let user =
        signed(json!({ "sub": USER, "role": "authenticated", "aud": "authenticated", "exp": now() + 600 }));
    let (anon, service) = (role("anon"), role("service_role"));
    let (publishable, secret_key) = (format!("sb_publishable_{name}"), format!("sb_secret_{name}"));
    let cron = format!("cron-secret-of-{name}");
    let gate = gate(|config| {
        config.keys = Keys {
            jwt_secret: secret.as_str().into(),
            anon_token: anon.as_str().into(),
            service_role_token: service.as_str().into(),
            publishable_keys: vec![publishable.as_str().into()],
            secret_keys: vec![secret_key.as_str().into()],
        };
        config.cron_secrets = vec![cron.as_str().into()];
        config.rest = Some(Router::new().fallback(|| async { "rows" }));
        config.guards = [
            ("job".to_owned(), Guard::new(GuardAuth::Cron)),
            ("open".to_owned(), Guard::new(GuardAuth::Public)),
        ]
        .into();
    })
    .await;
    for function in ["job", "open"] {
        gate.functions.on(function, echo);
    }
    let origin = CallOrigin {
        function: "caller".into(),
        run: Some(LIVE_RUN),
    };
    let origin = CallTokens::new(&Secret::new(secret.as_str()))
        .unwrap()
        .issue(&origin, 1_000);
    TestProject {
        gate,
        credentials: vec![
            ("anon", anon),
            ("user", user),
            ("service", service),
            ("publishable key", publishable.clone()),
            ("secret key", secret_key),
        ],
        cron,
        key: publishable,
        origin,
    }
}

async fn status(gate: &Gate, path: &str, headers: &[(&str, &str)]) -> u16 {
    gate.get(path, headers).await.status.as_u16()
}

#[tokio::test]
async fn what_opens_one_project_opens_nothing_of_another() {
    let projects = [project("one").await, project("two").await];
    for (own, other) in [(0, 1), (1, 0)] {
        let (own, other) = (&projects[own], &projects[other].gate);
        for (who, credential) in &own.credentials {
            let bearer = format!("Bearer {credential}");
            let shown = [("authorization", bearer.as_str())];
            for path in ["/functions/v1/echo", "/rest/v1/rows"] {
                assert_eq!(
                    status(&own.gate, path, &shown).await,
                    200,
                    "{who} at home: {path}"
                );
                assert_eq!(status(other, path, &shown).await, 401, "{who}: {path}");
                // once it was refused it does not become known
                assert_eq!(status(other, path, &shown).await, 401, "{who} again: {path}");
            }
            assert_eq!(status(other, "/functions/v1/job", &shown).await, 401, "{who}");
            for route in ROUTES.iter().filter(|route| route.right != Right::Everybody) {
                let reply = call(other, route, &name_for(route), &shown).await;
                assert_eq!(reply.status, 401, "{who}: {} {}", route.method, route.pattern);
            }
        }
        let key = [("apikey", own.key.as_str())];
        assert_eq!(status(&own.gate, "/functions/v1/echo", &key).await, 200);
        assert_eq!(status(other, "/functions/v1/echo", &key).await, 401);
        let cron = format!("Bearer {}", own.cron);
        let cron = [("authorization", cron.as_str())];
        assert_eq!(status(&own.gate, "/functions/v1/job", &cron).await, 200);
        assert_eq!(status(other, "/functions/v1/job", &cron).await, 401);
    }
}

/// A function that calls another project is nobody there: its call has no place in that project's ledger.
#[tokio::test]
async fn a_call_of_one_project_has_no_place_in_another() {
    let projects = [project("one").await, project("two").await];
    for (of, at, is_believed) in [(0, 0, true), (0, 1, false), (1, 0, false), (1, 1, true)] {
        let call = [("x-tramline-call", projects[of].origin.as_str())];
        let seen = projects[at].gate.get("/functions/v1/open", &call).await.json();
        assert_eq!(seen["run_id"].is_string(), is_believed, "{of} at {at}: {seen}");
    }
}
