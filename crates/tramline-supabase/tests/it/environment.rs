use tramline_supabase::environment::{self, EnvironmentInput, FunctionEnvironment};
use tramline_supabase::{LocalKeys, Project};

use crate::support::Folder;

fn input(keys: &LocalKeys) -> EnvironmentInput<'_> {
    EnvironmentInput {
        gateway_url: "http://127.0.0.1:54321",
        db_url: "postgres://postgres@127.0.0.1:54322/postgres",
        keys,
        cron_secret: "generated",
    }
}

fn environment(project: &Project) -> FunctionEnvironment {
    environment::of_functions(project, &input(&LocalKeys::default()))
}

#[test]
fn functions_get_the_platforms_names() {
    let vars = environment(&Folder::new(&[]).project()).vars;
    assert_eq!(vars["SUPABASE_URL"], "http://127.0.0.1:54321");
    assert_eq!(
        vars["SUPABASE_DB_URL"],
        "postgres://postgres@127.0.0.1:54322/postgres"
    );
    assert_eq!(
        vars["SUPABASE_SECRET_KEYS"],
        r#"{"default":"sb_secret_N7UND0UgjKTVK-Uodkm0Hg_xSvEMPvz"}"#
    );
    let jwks: serde_json::Value = serde_json::from_str(&vars["SUPABASE_JWKS"]).unwrap();
    assert_eq!(jwks["keys"][0]["kty"], "oct");
    for name in [
        "SUPABASE_ANON_KEY",
        "SUPABASE_SERVICE_ROLE_KEY",
        "SUPABASE_PUBLISHABLE_KEYS",
        "CRON_SECRET",
    ] {
        assert!(!vars[name].is_empty(), "{name}");
    }
}

#[test]
fn the_projects_values_win_but_platform_names_are_skipped_with_a_warning() {
    let folder = Folder::new(&[
        (
            "supabase/functions/.env",
            "CRON_SECRET=mine\nBOTH=file\nSUPABASE_URL=http://else\nsupabase_lower=ok",
        ),
        (
            "supabase/config.toml",
            "[edge_runtime.secrets]\nboth = 'config'\nsupabase_x = 'no'",
        ),
    ]);
    let environment = environment(&folder.project());
    assert_eq!(environment.cron_secret(), "mine");
    assert_eq!(environment.vars["BOTH"], "config");
    assert_eq!(environment.vars["SUPABASE_URL"], "http://127.0.0.1:54321");
    assert_eq!(environment.vars["supabase_lower"], "ok");
    let warnings: Vec<String> = environment.warnings.iter().map(ToString::to_string).collect();
    assert!(
        warnings[0]
            .ends_with("functions/.env:3: Env name cannot start with SUPABASE_, skipping: SUPABASE_URL")
    );
    assert!(warnings[1].ends_with("config.toml: Env name cannot start with SUPABASE_, skipping: SUPABASE_X"));
}

#[test]
fn an_empty_cron_secret_does_not_replace_the_generated_one() {
    let folder = Folder::new(&[("supabase/functions/.env", "CRON_SECRET=\n")]);
    assert_eq!(environment(&folder.project()).cron_secret(), "generated");
}

#[test]
fn container_addresses_become_ones_that_work_here() {
    let folder = Folder::new(&[(
        "supabase/functions/.env",
        "A=http://kong:8000/functions/v1/x\nB=http://host.docker.internal:54321\nC=http://host.docker.internal:3000/y\n\
         D=http://host.docker.internal/z\nE=http://donkong:8000 kong:80 my.host.docker.internal\n\
         F=a,http://kong:8000,http://host.docker.internal:9/",
    )]);
    let vars = environment(&folder.project()).vars;
    assert_eq!(vars["A"], "http://127.0.0.1:54321/functions/v1/x");
    assert_eq!(vars["B"], "http://127.0.0.1:54321");
    assert_eq!(vars["C"], "http://127.0.0.1:3000/y");
    assert_eq!(vars["D"], "http://127.0.0.1:54321/z");
    assert_eq!(vars["E"], "http://donkong:8000 kong:80 my.host.docker.internal");
    assert_eq!(vars["F"], "a,http://127.0.0.1:54321,http://127.0.0.1:9/");
}

#[test]
fn a_function_has_variables_of_its_own_and_may_choose_among_the_projects() {
    let folder = Folder::new(&[
        ("supabase/functions/.env", "STRIPE=shared\nMAIL=shared\n"),
        ("supabase/functions/pay/index.ts", ""),
        (
            "supabase/functions/pay/.env",
            "STRIPE=its own\nHOOK=http://kong:8000/x\nSUPABASE_URL=http://else\nCRON_SECRET=guessed\n",
        ),
        ("supabase/functions/mail/index.ts", ""),
        ("supabase/functions/odd/index.ts", ""),
        ("supabase/functions/odd/.env", "NO_VALUE\n"),
    ]);
    let project = folder.project();
    let shared = environment(&project);
    let of = |name: &str, chosen: Option<&[String]>| {
        let source = project
            .functions
            .iter()
            .find(|function| function.name == name)
            .unwrap();
        shared.of(source, chosen, &project, &input(&LocalKeys::default()))
    };
    let pay = of("pay", None);
    assert_eq!(pay.vars["STRIPE"], "its own");
    assert_eq!(pay.vars["MAIL"], "shared");
    assert_eq!(pay.vars["HOOK"], "http://127.0.0.1:54321/x");
    assert_eq!(pay.vars["SUPABASE_URL"], "http://127.0.0.1:54321");
    assert_eq!(pay.vars["CRON_SECRET"], "generated");
    let warnings: Vec<String> = pay.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(
        warnings[0]
            .ends_with("functions/pay/.env:3: SUPABASE_URL is the project's, not one function's; skipping"),
        "{warnings:?}"
    );
    // what it chooses, the platform's and its own; nobody else's
    let chosen = ["MAIL".to_owned(), "TOKEN".to_owned()];
    let pay = of("pay", Some(&chosen));
    assert_eq!(
        (pay.vars["MAIL"].as_str(), pay.vars["STRIPE"].as_str()),
        ("shared", "its own")
    );
    assert_eq!(pay.missing, ["TOKEN"]);
    let mail = of("mail", Some(&chosen[..1]));
    assert!(!mail.vars.contains_key("STRIPE") && mail.vars.contains_key("SUPABASE_ANON_KEY"));
    assert!(!mail.vars.contains_key("HOOK") && mail.missing.is_empty());
    assert!(
        of("mail", Some(&[]))
            .vars
            .keys()
            .all(|name| name.starts_with("SUPABASE_") || name == "CRON_SECRET")
    );
    // a file that cannot be read breaks that function only
    let odd = project
        .functions
        .iter()
        .find(|function| function.name == "odd")
        .unwrap();
    let reason = odd.broken(&shared.vars).unwrap();
    assert!(
        reason.contains("functions/odd/.env:1: NO_VALUE has no value"),
        "{reason}"
    );
}
