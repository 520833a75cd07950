//! What is in a bundle: packages as they were resolved, and those that cannot be had.

use std::path::PathBuf;

use tramline_host::{Edit, Host, Registry};

use crate::common::{Project, call, info, ok, reason, stop};

#[tokio::test(flavor = "multi_thread")]
async fn packages_are_recorded_as_they_were_resolved_and_old_bundles_leave_nothing() {
    let source = |n: usize| {
        format!(
            "import {{ z }} from 'https://esm.sh/zod@3.22.4?target=deno'; import ms from 'npm:ms@^2.1.0';
            Deno.serve(() => new Response(z.string().parse('{n}') + ms(1000)));"
        )
    };
    let mut project = Project::new()
        .function("packed", &source(0))
        .file("pages/a.txt", "a")
        .function_with("pages", &source(0), |_| {});
    project.functions[1].static_files = vec![PathBuf::from("supabase/functions/pages/*.txt")];
    let host = project.host().await;
    let recorded = |host: &Host, name: &str| -> Vec<(String, String)> {
        let packages = info(host, name).dependencies;
        let npm = packages
            .iter()
            .filter(|package| package.registry == Registry::Npm);
        npm.map(|package| (package.name.clone(), package.version.clone()))
            .collect()
    };
    let first = recorded(&host, "packed");
    assert_eq!(
        first.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["ms", "zod"]
    );
    assert!(
        first[0].1.starts_with("2.") && first[1].1 == "3.22.4",
        "{first:?}"
    );
    assert_eq!(recorded(&host, "pages"), first);
    for n in 1..8 {
        for name in ["packed", "pages"] {
            project.write(&format!("{name}/index.ts"), &source(n));
            assert_eq!(host.reload(name).await, Some(Edit::Live));
        }
    }
    assert_eq!(call(&host, "packed").await, ok("71s"));
    stop(&host).await;
    for (name, kinds) in [("packed", 4), ("pages", 3)] {
        let folder = std::fs::read_dir(project.state_dir().join("bundles").join(name)).unwrap();
        let private = folder.flatten().next().unwrap().path();
        // of each version the bundle (or its folder), its map, its packages and its inputs
        let files = std::fs::read_dir(private).unwrap().count();
        assert_eq!(files, 5 * kinds, "{name}");
    }
    // found again, not made again
    project.limits.bundle_ms = 0;
    let host = project.host().await;
    assert_eq!(recorded(&host, "packed"), first);
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_that_cannot_be_had_is_named_as_it_was_imported() {
    let project = Project::new()
        .function(
            "version",
            "import x from 'https://esm.sh/left-pad@99.0.0'; Deno.serve(() => new Response(x));",
        )
        .function(
            "nobody",
            "import x from 'npm:@nobody-has-this-scope/nothing@1/sub'; Deno.serve(() => new Response(x));",
        );
    let host = project.host().await;
    for (name, specifier, package) in [
        ("version", "https://esm.sh/left-pad@99.0.0", "left-pad@99.0.0"),
        (
            "nobody",
            "npm:@nobody-has-this-scope/nothing@1/sub",
            "@nobody-has-this-scope/nothing@1",
        ),
    ] {
        let told = reason(&host, name);
        assert!(told.contains(&format!("{specifier:?}")), "{told}");
        assert!(
            told.contains(&format!("the npm registry has no {package}")),
            "{told}"
        );
        assert!(
            told.contains(&format!("{name}/index.ts")) && !told.contains("backtrace"),
            "{told}"
        );
    }
    stop(&host).await;
}
