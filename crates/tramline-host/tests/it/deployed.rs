//! Functions that come as versions: bundled from an upload, fetched by whoever runs them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tramline_host::{BundleError, Bundled, Deployed, Edit, FunctionSpec, Package, Packages, Upload};

use crate::common::*;

/// Versions in memory, by function.
#[derive(Debug, Default)]
struct Shelf {
    versions: BTreeMap<i32, Package>,
    fetches: AtomicUsize,
}

impl Packages for Shelf {
    fn fetch(&self, _: &str, version: i32) -> BoxFuture<'static, Result<Package, String>> {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        let found = self.versions.get(&version).cloned();
        async move { found.ok_or_else(|| "there is no such version".to_owned()) }.boxed()
    }
}

fn upload(name: &str, files: &[(&str, &str)]) -> Upload {
    let path = |path: &str| format!("supabase/functions/{path}");
    Upload {
        name: name.into(),
        files: files
            .iter()
            .map(|(at, text)| (path(at), text.as_bytes().to_vec()))
            .collect(),
        entrypoint: path(&format!("{name}/index.ts")),
        import_map: None,
        static_patterns: vec![],
    }
}

fn deployed(shelf: &Arc<Shelf>, version: i32, bundled: &Bundled) -> FunctionSpec {
    FunctionSpec {
        name: "page".into(),
        deployed: Some(Deployed {
            version,
            key: format!("{version:0<64}"),
            sha256: hex::encode(bundled.sha256),
            entry: "supabase/functions/page/index.ts".into(),
            has_static_files: !bundled.static_files.is_empty(),
            dependencies: Arc::new(bundled.dependencies.clone()),
            packages: shelf.clone(),
        }),
        ..FunctionSpec::default()
    }
}

const PAGE: &str = "import { word } from '../_shared/word.ts';
Deno.serve(async () => new Response(word + await Deno.readTextFile(new URL('./page.html', import.meta.url))));";

#[tokio::test]
async fn a_version_is_bundled_in_one_place_and_fetched_once_in_another() {
    let maker = Project::new();
    let maker = maker.host().await;
    let mut shelf = Shelf::default();
    let mut made = Vec::new();
    for (version, text) in [(1, "one"), (2, "two")] {
        let word = format!("export const word: string = '{text} ';");
        let page = format!("<p>{text}");
        let files = [
            ("page/index.ts", PAGE),
            ("_shared/word.ts", &*word),
            ("page/page.html", &*page),
        ];
        let upload = Upload {
            static_patterns: vec!["supabase/functions/page/*.html".into()],
            ..upload("page", &files)
        };
        let bundled = maker.bundle_upload(upload).await.unwrap();
        let at = "supabase/functions/page/page.html";
        assert_eq!(bundled.static_files.iter().collect::<Vec<_>>(), [at]);
        let package = Package {
            bundle: bundled.bundle.clone(),
            static_files: vec![(at.into(), page.into())],
        };
        shelf.versions.insert(version, package);
        made.push(bundled);
    }
    stop(&maker).await;

    let shelf = Arc::new(shelf);
    let mut project = Project::new();
    project.functions = vec![deployed(&shelf, 1, &made[0])];
    let host = project.host().await;
    host.wait_settled().await;
    assert_eq!(call(&host, "page").await, ok("one <p>one"));
    assert_eq!(host.functions()[0].deployed, Some(1));
    let edits = host.update(vec![deployed(&shelf, 2, &made[1])]).await;
    assert_eq!(edits, [("page".into(), Edit::Live)]);
    assert_eq!(call(&host, "page").await, ok("two <p>two"));
    // back to what is here already
    host.update(vec![deployed(&shelf, 1, &made[0])]).await;
    assert_eq!(call(&host, "page").await, ok("one <p>one"));
    assert_eq!(shelf.fetches.load(Ordering::SeqCst), 2);
    // a version that cannot be had leaves the one that works
    let edits = host.update(vec![deployed(&shelf, 3, &made[1])]).await;
    let (_, Edit::Kept { reason }) = &edits[0] else {
        panic!("{edits:?}")
    };
    assert!(
        reason.contains("fetch version 3: there is no such version"),
        "{reason}"
    );
    assert_eq!(call(&host, "page").await, ok("one <p>one"));
    stop(&host).await;
}

#[tokio::test]
async fn a_bundle_that_was_changed_on_the_way_is_not_run() {
    let bundled = Bundled {
        bundle: b"Deno.serve(() => new Response('forged'))".to_vec(),
        sha256: [7; 32],
        static_files: Default::default(),
        dependencies: vec![],
    };
    let package = Package {
        bundle: bundled.bundle.clone(),
        static_files: vec![],
    };
    let shelf = Arc::new(Shelf {
        versions: BTreeMap::from([(1, package)]),
        ..Shelf::default()
    });
    let mut project = Project::new();
    project.functions = vec![deployed(&shelf, 1, &bundled)];
    let host = project.host().await;
    host.wait_settled().await;
    let state = format!("{:?}", host.functions()[0].state);
    assert!(
        state.contains("its bundle is not the one that was deployed"),
        "{state}"
    );
    stop(&host).await;
}

#[tokio::test]
async fn an_upload_that_does_not_bundle_says_why_without_the_folders_of_the_node() {
    let project = Project::new();
    let host = project.host().await;
    let folder = project.dir.path().display().to_string();
    let refused = async |upload: Upload| -> String {
        let error: BundleError = host.bundle_upload(upload).await.unwrap_err();
        let text = error.to_string();
        assert!(!text.contains(&folder), "{text}");
        text
    };
    let text = refused(upload("a", &[("a/index.ts", "Deno.serve(")])).await;
    assert!(text.contains("supabase/functions/a/index.ts"), "{text}");
    let text = refused(upload("a", &[("b/index.ts", "")])).await;
    assert_eq!(
        text,
        "the entry file supabase/functions/a/index.ts does not exist"
    );
    let outside = "import x from '../../../../etc/passwd' with { type: 'text' };";
    let text = refused(upload("a", &[("a/index.ts", outside)])).await;
    assert!(text.contains("outside the project"), "{text}");
    let text = refused(upload("a", &[("a/index.ts", ""), ("a/../../../x", "")])).await;
    assert!(text.contains("leads out of the project with `..`"), "{text}");
    let text = refused(Upload {
        static_patterns: vec!["../../../etc/*".into()],
        ..upload("a", &[("a/index.ts", "")])
    })
    .await;
    assert!(text.contains("../../../etc/* leads out of the project"), "{text}");
    stop(&host).await;
    let left = std::fs::read_dir(project.state_dir().join("uploads"));
    assert_eq!(left.map(Iterator::count).unwrap_or_default(), 0);
}

#[test]
fn sources_are_read_with_maps_and_static_files() {
    let project = Project::new()
        .function_with("a", "import { b } from 'shared/b.ts';", |spec| {
            spec.static_files = vec![spec.entrypoint.with_file_name("page.html")];
            spec.import_map = Some(spec.entrypoint.with_file_name("deno.json"));
        })
        .file("a/deno.json", r#"{ "importMap": "./map.json" }"#)
        .file("a/map.json", r#"{ "imports": { "shared/": "../_shared/" } }"#)
        .file("a/page.html", "<p>")
        .file("_shared/b.ts", "export const b = 1;")
        .file("_shared/unused.ts", "");
    let root = project.dir.path().canonicalize().unwrap();
    let mut spec = project.functions[0].clone();
    let sources = tramline_host::read_sources(&root, &root.join(".tramline"), &spec).unwrap();
    let at = |path: &str| std::path::PathBuf::from(format!("supabase/functions/{path}"));
    assert_eq!(
        sources.files.keys().cloned().collect::<Vec<_>>(),
        [
            "_shared/b.ts",
            "a/deno.json",
            "a/index.ts",
            "a/map.json",
            "a/page.html"
        ]
        .map(at)
    );
    assert_eq!(sources.entrypoint, at("a/index.ts"));
    assert_eq!(sources.import_map, Some(at("a/deno.json")));
    assert_eq!(sources.static_files, [at("a/page.html")]);
    // a link that leads out of the project
    std::os::unix::fs::symlink("/etc/passwd", project.path("a/page.txt")).unwrap();
    spec.static_files = vec![spec.entrypoint.with_file_name("page.txt")];
    let error = tramline_host::read_sources(&root, &root.join(".tramline"), &spec).unwrap_err();
    assert!(error.to_string().contains("a link that leads outside"), "{error}");
}

#[tokio::test]
async fn when_many_are_deployed_at_once_most_go_to_sleep_after_they_have_started() {
    let mut project = Project::new();
    project.limits.prestart = 1;
    let host = project.host().await;
    let names = ["a", "b", "c", "d", "e", "f", "g"];
    for name in names {
        project = project.function(name, &format!("Deno.serve(() => new Response('{name}'));"));
    }
    let edits = host.update(project.functions.clone()).await;
    assert!(edits.iter().all(|(_, edit)| *edit == Edit::Live), "{edits:?}");
    // the one that a node starts by itself, and four more
    eventually("instances that nobody calls to end", || {
        (host.stats().instances == 5).then_some(())
    })
    .await;
    // what is deployed alone does not wait for another start
    let started = |host: &tramline_host::Host| {
        let stats = host.stats();
        stats.starts_from_spare + stats.starts_fresh
    };
    project = project.function("alone", "Deno.serve(() => new Response('alone'));");
    let edits = host.update(project.functions.clone()).await;
    assert!(edits.contains(&("alone".to_owned(), Edit::Live)), "{edits:?}");
    let before = started(&host);
    assert_eq!(call(&host, "alone").await, ok("alone"));
    assert_eq!(started(&host), before);
    for name in names {
        assert_eq!(call(&host, name).await, ok(name));
    }
    assert_eq!(started(&host), before + 2, "those that slept");
    stop(&host).await;
}
