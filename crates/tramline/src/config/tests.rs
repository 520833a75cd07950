use tramline_host::Layer;

use super::*;

pub(super) fn parse(text: &str, env: &[(&str, &str)]) -> Done<Config> {
    let env = env
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    Config::parse(Path::new(FILE), text, &env)
}

pub(super) fn problems(text: &str, env: &[(&str, &str)]) -> Vec<String> {
    parse(text, env).expect_err("should be refused").details
}

#[test]
fn the_example_is_read() {
    let text = include_str!("../../../../examples/crm/tramline.toml");
    let config = parse(text, &[]).unwrap();
    assert_eq!(config.functions["daily-digest"].auth, Some(GuardAuth::Cron));
    assert_eq!(config.functions["digest-opt-out"].auth, Some(GuardAuth::Public));
    assert!(!config.functions["users"].withhold_service_role_key);
}

#[test]
fn an_unknown_key_names_its_line_and_the_nearest_known_key() {
    let found = problems("[gateway]\nmax_body_mb = 5\nmax_conections = 7\n", &[]);
    assert_eq!(
        found,
        ["tramline.toml:3: the key gateway.max_conections is not known; did you mean max_connections?"]
    );
    let found = problems("[gatway]\n", &[]);
    assert_eq!(
        found,
        ["tramline.toml:1: the key gatway is not known; did you mean gateway?"]
    );
    let found = problems("[functions.a]\nzzz = 1\n", &[]);
    assert!(
        found[0].starts_with("tramline.toml:2: the key functions.a.zzz is not known; known are auth, "),
        "{found:?}"
    );
}

#[test]
fn all_problems_are_told_at_once() {
    let found = problems(
        "[functions.a]\nauth = \"jtw\"\n[engine]\nlease_seconds = 0\n",
        &[],
    );
    assert_eq!(
        found,
        [
            "tramline.toml:2: functions.a.auth must be one of jwt, cron, public, webhook, none, but is \"jtw\"; did you mean jwt?",
            "tramline.toml:4: engine.lease_seconds must be a whole number from 1 to 300, but is 0",
        ]
    );
}

#[test]
fn an_open_function_needs_a_reason() {
    let found = problems("[functions.a]\nauth = \"none\"\n", &[]);
    assert!(
        found[0].starts_with("tramline.toml:2: functions.a is open to everybody"),
        "{found:?}"
    );
    assert!(parse("[functions.a]\nauth = \"none\"\nreason = \"static text\"\n", &[]).is_ok());
}

#[test]
fn the_environment_stands_over_the_file() {
    let text = "[gateway]\nmax_body_mb = 5\n";
    assert_eq!(parse(text, &[]).unwrap().gateway.max_body_mb, Some(5));
    assert_eq!(
        parse(text, &[("TRAMLINE_GATEWAY_MAX_BODY_MB", "7")])
            .unwrap()
            .gateway
            .max_body_mb,
        Some(7)
    );
    let found = problems(text, &[("TRAMLINE_GATEWAY_MAX_BODY_MB", "x")]);
    assert_eq!(
        found,
        ["environment TRAMLINE_GATEWAY_MAX_BODY_MB: it must be a whole number from 1 to 1024"]
    );
    let found = problems(text, &[("TRAMLINE_ENGINE_LEASE_SECOND", "7")]);
    assert_eq!(
        found,
        [
            "environment TRAMLINE_ENGINE_LEASE_SECOND: there is no setting engine.lease_second; did you mean lease_seconds?"
        ]
    );
}

#[test]
fn a_functions_own_body_and_the_time_to_warm_up_are_read() {
    let config = parse(
        "[functions.a]\nmax_body_mb = 5\n[engine]\nwarm_before_seconds = 0\n[host]\nprestart = 0\n",
        &[],
    )
    .unwrap();
    assert_eq!(config.functions["a"].limits.body_mb, Some(5));
    assert_eq!(config.engine.warm_before_seconds, Some(0));
    assert_eq!(config.host.prestart, Some(0));
    let found = problems(
        "[functions.a]\nmax_body_mb = 5000\n[engine]\nwarm_before_seconds = 9999\n",
        &[],
    );
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn limits_of_one_function_are_its_own_and_not_the_engines() {
    let config = parse(
        "[functions.a]\nmax_calls = 20\nmax_log_entries = 5\nthreads = 32\ntemp_mb = 8\nidle_minutes = 1\nmax_age_minutes = 2\n\
         [functions.b]\nmax_calls_per_instance = 1000\n[host]\nlog_days = 3\n",
        &[],
    )
    .unwrap();
    let (a, b) = (&config.functions["a"], &config.functions["b"]);
    assert_eq!((a.max_calls, a.limits.max_calls), (Some(20), None));
    assert_eq!((b.max_calls, b.limits.max_calls), (None, Some(1_000)));
    assert_eq!((a.limits.log_entries, a.limits.threads), (Some(5), Some(32)));
    assert_eq!(
        (a.limits.temp_mb, a.limits.idle_ms, a.limits.max_age_ms),
        (Some(8), Some(60_000), Some(120_000))
    );
    assert_eq!(config.host.log_days, Some(3));
    let found = problems(
        "[functions.a]\nmax_log_entries = 0\nthreads = 1\n[host]\nmax_calls = 5\n",
        &[],
    );
    assert_eq!(found.len(), 3, "{found:?}");
}

#[test]
fn the_names_of_a_functions_secrets_are_checked() {
    let config = parse("[functions.a]\nsecrets = [\"STRIPE_KEY\"]\n[functions.b]\n", &[]).unwrap();
    assert_eq!(config.functions["a"].secrets, Some(vec!["STRIPE_KEY".to_owned()]));
    assert_eq!(config.functions["b"].secrets, None);
    let found = problems(
        "[functions.a]\nsecrets = [\"SUPABASE_URL\", \"a b\", \"CRON_SECRET\"]\n",
        &[],
    );
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(
        found[0].contains("tramline.toml:2") && found[0].contains("withhold_service_role_key"),
        "{found:?}"
    );
}

#[test]
fn broken_toml_has_its_line() {
    let found = problems("[gateway]\nmax_body_mb = \n", &[]);
    assert!(found[0].starts_with("tramline.toml:2: "), "{found:?}");
}

#[test]
fn postgres_binaries_and_settings_are_checked() {
    let config = parse(
        "[postgres]\nbinaries = \"npm\"\n[postgres.settings]\nwork_mem = \"8MB\"\n",
        &[],
    )
    .unwrap();
    assert_eq!(config.postgres.binaries, Binaries::Npm);
    assert_eq!(
        config.postgres.settings,
        [("work_mem".to_owned(), "8MB".to_owned())]
    );
    assert_eq!(problems("[postgres]\nbinaries = \"apt\"\n", &[]).len(), 1);
    assert_eq!(problems("[postgres.settings]\n\"-c\" = 1\n", &[]).len(), 1);
}

#[test]
fn layers_and_egress_are_checked() {
    let text = "[sandbox]\nrequire = [\"landlock\", \"seccomp\"]\nuid = 61200\n\
                [functions.a]\negress = [\"api.example.com:443\"]\n[functions.b]\negress = \"none\"\n[functions.c]\negress = []\n";
    let config = parse(text, &[]).unwrap();
    assert_eq!(config.sandbox.require, [Layer::Landlock, Layer::Seccomp]);
    assert_eq!(config.sandbox.uid, Some(61_200));
    let egress = |name: &str| config.functions[name].egress.clone();
    assert_eq!(
        egress("a"),
        Some(Egress::Only(vec!["api.example.com:443".to_owned()]))
    );
    assert_eq!(
        (egress("b"), egress("c")),
        (Some(Egress::None), Some(Egress::None))
    );
    let found = problems("[sandbox]\nrequire = [\"landlok\"]\n", &[]);
    assert!(
        found[0]
            .starts_with("tramline.toml:2: \"landlok\" is no layer of the sandbox; did you mean landlock?"),
        "{found:?}"
    );
    let found = problems("[functions.a]\negress = \"nowhere\"\n", &[]);
    assert!(
        found[0].contains("functions.a.egress must be one of open, all, none"),
        "{found:?}"
    );
    for bad in ["https://api.example.com", "a b", "host:0", "[::g]:1"] {
        let found = problems(&format!("[functions.a]\negress = [\"{bad}\"]\n"), &[]);
        assert!(
            found[0].starts_with("tramline.toml:2: egress cannot name"),
            "{found:?}"
        );
    }
    assert_eq!(problems("[functions.a]\negress = 3\n", &[]).len(), 1);
}

#[test]
fn retention_is_read_by_target_and_at_least_a_day() {
    let text = "[retention]\ndefault = \"90d\"\n[retention.targets]\n\"daily-digest\" = \"7d\"\n";
    let config = parse(text, &[]).unwrap();
    assert_eq!(config.retention.default, Some(90 * 86_400));
    assert_eq!(
        config.retention.targets,
        [("daily-digest".to_owned(), 7 * 86_400)]
    );
    let config = parse(text, &[("TRAMLINE_RETENTION_DEFAULT", "1d")]).unwrap();
    assert_eq!(config.retention.default, Some(86_400));
    let found = problems("[retention]\ndefault = \"12h\"\n", &[]);
    assert!(
        found[0].starts_with("tramline.toml:2: ") && found[0].contains("at least 1d"),
        "{found:?}"
    );
    let found = problems("[retention.targets]\nx = \"soon\"\n", &[]);
    assert!(found[0].contains("x: read the duration `soon`"), "{found:?}");
}

#[test]
fn functions_have_policies_which_the_core_checks() {
    let text = "[functions.mail.retry]\nmax_attempts = 5\non = [503, \"timeout\"]\njitter = false\n[functions.mail.idempotency]\nretention = \"7d\"\n";
    let config = parse(text, &[]).unwrap();
    let mail = &config.functions["mail"];
    assert_eq!(
        mail.retry,
        Some(serde_json::json!({ "max_attempts": 5, "on": [503, "timeout"], "jitter": false }))
    );
    assert_eq!(mail.idempotency.retention_ms, Some(7 * 86_400_000));
    assert_eq!(
        parse("[functions.mail]\n", &[]).unwrap().functions["mail"].retry,
        None
    );
    let found = problems(
        "[functions.mail]\nretry = { max_atempts = 5, backoff = \"cubic\" }\nidempotency = { retention = \"7 days\" }\n",
        &[],
    );
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(
        found[0].starts_with(
            "tramline.toml:2: functions.mail.retry.max_atempts: unknown key `max_atempts`: did you mean"
        ),
        "{found:?}"
    );
    assert!(found[1].contains("functions.mail.retry.backoff"), "{found:?}");
    assert!(
        found[2].starts_with("tramline.toml:3: functions.mail.idempotency.retention"),
        "{found:?}"
    );
}

#[test]
fn doors_that_could_not_be_locked_are_refused() {
    let refused = [
        (
            "[functions.a]\nauth = \"webhook\"\nwebhook = \"github\"\n",
            "name the variables",
        ),
        (
            "[functions.a]\nauth = \"webhook\"\nwebhook = \"github\"\nwebhook_secrets = [\"whsec_c2VjcmV0\"]\n",
            "name the variables",
        ),
        (
            "[functions.a]\nauth = \"webhook\"\nwebhook_secrets = [\"HOOK\"]\n",
            "needs webhook = ",
        ),
        (
            "[functions.a]\nauth = \"jwt\"\nwebhook = \"github\"\n",
            "only with auth",
        ),
        (
            "[functions.a]\nauth = \"jwt\"\nsigned_links = true\n",
            "goes with auth",
        ),
        ("[issuers.a]\njwks_file = \"k.json\"\n", "needs issuer = "),
        ("[issuers.a]\nissuer = \"i\"\n", "either jwks_url or jwks_file"),
        (
            "[issuers.a]\nissuer = \"i\"\njwks_url = \"http://id.example.com/k\"\n",
            "by https://",
        ),
        (
            "[issuers.a]\nissuer = \"i\"\njwks_file = \"k.json\"\naudiences = []\n",
            "at least one",
        ),
    ];
    for (text, part) in refused {
        let found = problems(text, &[]);
        assert!(
            found.iter().any(|problem| problem.contains(part)),
            "{text}: {found:?}"
        );
        assert!(!found.concat().contains("c2VjcmV0"), "a secret is not repeated");
    }
    let good = "[functions.a]\nauth = \"public\"\nsigned_links = true\n[functions.b]\nauth = \"webhook\"\n\
                webhook = \"slack\"\nwebhook_secrets = [\"NEW\", \"OLD\"]\n[issuers.c]\nissuer = \"i\"\n\
                jwks_url = \"https://id.example.com/k\"\n";
    let config = parse(good, &[]).unwrap();
    assert_eq!(config.functions["a"].auth, Some(GuardAuth::SignedLink));
    assert_eq!(
        config.functions["b"].webhook.as_ref().unwrap().secrets,
        ["NEW", "OLD"]
    );
    assert_eq!(config.issuers[0].roles, ["anon", "authenticated"]);
}

#[test]
fn a_functions_cors_stands_over_the_projects_key_by_key() {
    let text = "[gateway]\ncors_origins = [\"https://app.example.com\"]\ncors_headers = [\"x-shop\"]\n\
                [functions.a]\ncors_credentials = true\n\
                [functions.b]\ncors_origins = [\"https://*-team.preview.example\"]\n[functions.c]\n";
    let config = parse(text, &[]).unwrap();
    let project = &config.gateway.cors;
    let a = config.functions["a"].cors.as_ref().unwrap();
    assert_eq!((&a.origins, &a.headers), (&project.origins, &project.headers));
    assert_eq!(a.credentials, Some(true));
    let b = config.functions["b"].cors.as_ref().unwrap();
    assert_ne!(b.origins, project.origins);
    assert_eq!(b.headers, project.headers);
    assert_eq!(config.functions["c"].cors, None);
}

#[test]
fn cors_that_cannot_hold_is_refused_with_its_place() {
    for (text, told) in [
        (
            "[gateway]\ncors_credentials = true\n",
            "tramline.toml:2: allow credentials for every origin",
        ),
        (
            "[gateway]\ncors_origins = [\"https://*.com\"]\n",
            "tramline.toml:2: use \"https://*.com\" as a CORS origin: a pattern has one *",
        ),
        (
            "[functions.a]\ncors_origins = [\"app.example\"]\n",
            "tramline.toml:2: use \"app.example\" as a CORS origin: write scheme",
        ),
        (
            "[functions.a]\ncors_credentials = true\n",
            "tramline.toml:2: allow credentials for every origin",
        ),
        (
            "[gateway]\ncors_headers = [\"x y\"]\n",
            "tramline.toml:2: allow the header \"x y\"",
        ),
    ] {
        let found = problems(text, &[]);
        assert!(found[0].starts_with(told), "{found:?}");
    }
}

#[test]
fn the_ways_in_are_checked() {
    let text = "[gateway]\ntrusted_proxies = [\"10.0.0.0/8\"]\nproxy_protocol = true\ntls_cert = \"c.pem\"\n\
                tls_key = \"k.pem\"\naccess_log = \"json\"\nrate_per_ip = { count = 50, per = \"1s\", burst = 100 }\n";
    let gateway = parse(text, &[]).unwrap().gateway;
    assert!(gateway.proxy_protocol);
    assert_eq!(gateway.tls, Some(("c.pem".into(), "k.pem".into())));
    let rate = gateway.rate_per_ip.unwrap();
    assert_eq!((rate.count, rate.per_ms, rate.burst), (50, 1_000, 100));
    for (text, told) in [
        ("trusted_proxies = [\"lan\"]", "trust \"lan\" as a proxy"),
        ("proxy_protocol = true", "name the proxies that speak it"),
        ("tls_cert = \"c.pem\"", "a certificate needs tls_key"),
        ("tls_key = \"k.pem\"", "a key needs tls_cert"),
        (
            "access_log = \"xml\"",
            "gateway.access_log must be one of off, text, json",
        ),
        ("rate_per_ip = \"50/s\"", "gateway.rate_per_ip: "),
        (
            "rate_per_key = { count = 0, per = \"1s\" }",
            "gateway.rate_per_key.count: ",
        ),
        (
            "keep_alive_seconds = 0",
            "gateway.keep_alive_seconds must be a whole number",
        ),
    ] {
        let found = problems(&format!("[gateway]\n{text}\n"), &[]);
        assert!(
            found[0].starts_with(&format!("tramline.toml:2: {told}")),
            "{found:?}"
        );
    }
}
