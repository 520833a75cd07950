//! Functions that try to get out.
//!
//! Each test names a hole that Deno's permissions leave, or a layer below them. A program in C stands in for a process
//! in which nothing of Deno is left: what it may not do, no function can.

use std::path::PathBuf;
use std::process::Command;

use http::StatusCode;
use serde_json::Value;
use tramline_host::{Egress, Host, HostError, Layer, SandboxConfig, layers};

use crate::common::{Project, call, eventually, info, ok, reason, stop};

const HELLO: &str = "Deno.serve(() => new Response('hello'));";

fn is_active(project: &Project, layer: Layer) -> bool {
    let all = layers(&SandboxConfig::default(), &project.state_dir());
    all.iter().any(|status| status.layer == layer && status.active)
}

/// The folder of the one running worker.
fn slot(project: &Project) -> PathBuf {
    let run = std::fs::read_dir(project.state_dir().join("run")).unwrap().next();
    let slots = std::fs::read_dir(run.unwrap().unwrap().path()).unwrap();
    slots.map(|entry| entry.unwrap().path()).next().unwrap()
}

/// Calls a function that answers with JSON.
pub async fn answers(host: &Host, name: &str) -> Value {
    let logs = || -> Vec<String> {
        let lines = host.recent_logs(Some(name), 20).into_iter();
        lines.map(|line| line.message).collect()
    };
    match call(host, name).await {
        Ok((StatusCode::OK, body)) => serde_json::from_str(&body).unwrap(),
        other => panic!("{name}: {other:?}\n{}", logs().join("\n")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_reaches_nothing_outside_its_folder() {
    let source = r#"
        import fs from "node:fs";
        import process from "node:process";
        import { spawnSync } from "node:child_process";
        import dns from "node:dns/promises";
        import { DatabaseSync } from "node:sqlite";
        const absent = String(new URL("http://x/").search);
        const attempts: Record<string, () => unknown> = {
            passwd: () => Deno.readTextFile("/etc/passwd"),
            environ: () => Deno.readTextFile("/proc/self/environ"),
            init: () => Deno.readTextFile("/proc/1/cmdline"),
            nodeFs: () => fs.readFileSync("/etc/hostname"),
            fileUrl: () => fetch("file:///etc/passwd").then((r) => r.text()),
            importJson: () => import(absent + "file:///etc/passwd", { with: { type: "text" } } as any),
            importHttps: () => import(absent + "https://esm.sh/zod@3"),
            importNpm: () => import(absent + "npm:left-pad"),
            list: () => Array.fromAsync(Deno.readDir("/")),
            neighbours: () => Array.fromAsync(Deno.readDir("..")),
            writeOutside: () => Deno.writeTextFile("/tmp/tramline-escape", "x"),
            symlink: () => Deno.symlink("/etc/passwd", "link"),
            command: () => new Deno.Command("/bin/true").output(),
            child: () => { const r = spawnSync("/bin/true"); if (r.status !== 0) throw r.error ?? new Error("not run"); },
            kill: () => Deno.kill(1, "SIGTERM"),
            dlopen: () => Deno.dlopen("libc.so.6", {}),
            hostname: () => Deno.hostname(),
            listen: () => Deno.listen({ port: 0 }),
            otherSocket: () => Deno.connect({ transport: "unix", path: "/run/other" } as any),
            request: async () => { if ((await Deno.permissions.request({ name: "run" })).state !== "granted") throw new Deno.errors.NotCapable("denied"); },
            attach: () => new DatabaseSync(":memory:").exec("attach '/tmp/x.db' as x"),
        };
        Deno.serve(async () => {
            const got: Record<string, string> = {};
            for (const [name, attempt] of Object.entries(attempts)) {
                try { await attempt(); got[name] = "worked"; } catch (error) { got[name] = (error as Error).name; }
            }
            return Response.json({
                got,
                env: [Object.keys(Deno.env.toObject()), Object.keys(process.env)],
                globals: ["localStorage", "sessionStorage", "caches"].filter((name) => name in globalThis),
            });
        });
    "#;
    let project = Project::new().function("escape", source);
    let host = project.host().await;
    let answer = answers(&host, "escape").await;
    let got = answer["got"].as_object().unwrap();
    let worked: Vec<&String> = got
        .iter()
        .filter(|(_, outcome)| *outcome == "worked")
        .map(|(name, _)| name)
        .collect();
    assert_eq!(worked, Vec::<&String>::new(), "{got:?}");
    assert_eq!(got.len(), 21);
    assert_eq!(
        answer["env"],
        serde_json::json!([["SB_EXECUTION_ID"], ["SB_EXECUTION_ID"]])
    );
    assert_eq!(answer["globals"], serde_json::json!([]));
    assert!(!std::path::Path::new("/tmp/tramline-escape").exists());
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_inside_the_functions_folder_lead_nowhere() {
    let source = "Deno.serve(async () => Response.json(await Promise.all(['soft', 'hard'].map((name) =>
        Deno.readTextFile(name).then((text) => text, (error) => error.name)))));";
    let project = Project::new().function("links", source);
    let host = project.host().await;
    assert_eq!(
        call(&host, "links").await.unwrap().1,
        r#"["NotFound","NotFound"]"#
    );
    let secret = project.dir.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let slot = slot(&project);
    std::os::unix::fs::symlink(&secret, slot.join("soft")).unwrap();
    std::fs::hard_link(&secret, slot.join("hard")).unwrap();
    let got = answers(&host, "links").await;
    if is_active(&project, Layer::Landlock) {
        assert_ne!(
            got[0], "secret",
            "a symbolic link passes Deno; Landlock must stop it"
        );
    }
    if is_active(&project, Layer::Uid) {
        assert_ne!(
            got[1], "secret",
            "a hard link passes Deno and Landlock; the user must stop it"
        );
    }
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bundler_inlines_no_file_of_the_machine() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "the-secret").unwrap();
    // escapes hide the path from our scan of the sources, not from Deno
    let hidden: String = secret.path().to_str().unwrap().replace('/', "\\x2f");
    let import = |path: &str| {
        format!(
            "import text from \"{path}\" with {{ type: \"text\" }}; Deno.serve(() => new Response(text));"
        )
    };
    let plain = secret.path().to_str().unwrap();
    let mut project = Project::new()
        .function("hidden", &import(&hidden))
        .function("plain", &import(plain))
        .function("file", &import(&format!("file://{plain}")))
        .function("dots", &import(&format!("../../../../../../../..{plain}")))
        .function("environ", &import("\\x2fproc\\x2fself\\x2fenviron"));
    project.limits.prestart = 0;
    let host = project.host().await;
    for name in ["plain", "file", "dots"] {
        assert!(reason(&host, name).contains("outside the project"), "{name}");
    }
    if is_active(&project, Layer::Landlock) {
        for name in ["hidden", "environ"] {
            let told = reason(&host, name);
            assert!(
                told.contains("ermission denied") && !told.contains("the-secret"),
                "{told}"
            );
        }
    }
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_function_cannot_read_anothers_bundle() {
    let spy = r#"Deno.serve(async () => {
        const entry = new URL(import.meta.url).pathname;
        const bundles = entry.slice(0, entry.indexOf("/bundles/") + 8);
        const tries = [bundles, bundles + "/other", entry.slice(0, entry.lastIndexOf("/"))];
        const got = await Promise.all(tries.map((path) => Array.fromAsync(Deno.readDir(path)).then((all) => all.length, (e) => e.name)));
        const own = await Deno.readTextFile(new URL("./data.txt", import.meta.url));
        return Response.json({ got, own });
    });"#;
    let mut project = Project::new()
        .function("other", HELLO)
        .file("spy/data.txt", "mine")
        .function_with("spy", spy, |_| {});
    let data = project.path("spy/data.txt");
    project.functions[1].static_files.push(data);
    let host = project.host().await;
    let answer = answers(&host, "spy").await;
    assert_eq!(answer["own"], "mine");
    if is_active(&project, Layer::Landlock) {
        assert!(
            answer["got"].as_array().unwrap().iter().all(Value::is_string),
            "{answer}"
        );
    }
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn overwriting_its_socket_or_forking_workers_harms_only_the_function_itself() {
    let spoil = "Deno.serve(async () => {
        for await (const entry of Deno.readDir('.')) await Deno.remove(entry.name, { recursive: true });
        await Deno.writeTextFile('s', 'no socket');
        return new Response('spoilt'); });";
    let fork = r#"Deno.serve(() => {
        const code = "data:application/javascript," + encodeURIComponent("for (;;);");
        for (let i = 0; i < 200; i++) new Worker(code, { type: "module" });
        return new Response("forked"); });"#;
    let project = Project::new()
        .function("spoil", spoil)
        .function("fork", fork)
        .function("hello", HELLO);
    let host = project.host().await;
    let _ = call(&host, "spoil").await;
    let _ = call(&host, "spoil").await;
    let _ = call(&host, "fork").await;
    for _ in 0..20 {
        assert_eq!(call(&host, "hello").await, ok("hello"));
    }
    stop(&host).await;
    assert_eq!(project.processes(), Vec::<u32>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_follow_the_functions_egress_policy() {
    let here = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = here.local_addr().unwrap().port();
    let source = format!(
        "const hosts = ['127.0.0.1', '127.0.0.2', 'localhost', '0.0.0.0', '[::1]', '[::ffff:127.0.0.1]', '169.254.169.254', '10.255.255.1', '2130706433'];
        const attempt = async (hostname: string) => {{
            // Nobody answers there; the others answer or refuse, however busy the machine is.
            const patience = hostname === '10.255.255.1' ? 300 : 30_000;
            const timeout = new Promise<string>((r) => setTimeout(r, patience, 'tried'));
            const connected = Deno.connect({{ hostname: hostname.replace(/[\\[\\]]/g, ''), port: {port} }}).then((c) => (c.close(), 'connected'));
            return await Promise.race([connected, timeout]).catch((e) => e instanceof Deno.errors.NotCapable ? 'denied' : 'tried');
        }};
        Deno.serve(async () => Response.json(Object.fromEntries(await Promise.all(hosts.map(async (h) => [h, await attempt(h)])))));"
    );
    let with = |egress: Egress| move |spec: &mut tramline_host::FunctionSpec| spec.egress = egress;
    let mut project = Project::new()
        .function("open", &source)
        .function_with("none", &source, with(Egress::None))
        .function_with("all", &source, with(Egress::All))
        .function_with(
            "only",
            &source,
            with(Egress::Only(vec![format!("127.0.0.1:{port}")])),
        )
        .function_with("other", &source, with(Egress::Only(vec!["127.0.0.1:1".into()])));
    let host = project.host().await;
    let open = answers(&host, "open").await;
    assert_eq!(open["127.0.0.1"], "connected", "the node's own address: {open}");
    assert_eq!(open["10.255.255.1"], "denied", "{open}");
    assert_eq!(open["127.0.0.2"], "denied", "{open}");
    for name in ["none", "other"] {
        let got = answers(&host, name).await;
        assert!(
            got.as_object()
                .unwrap()
                .values()
                .all(|outcome| outcome == "denied"),
            "{name}: {got}"
        );
    }
    let only = answers(&host, "only").await;
    assert_eq!(only["127.0.0.1"], "connected", "{only}");
    assert_eq!(
        (&only["localhost"], &only["127.0.0.2"]),
        (&"denied".into(), &"denied".into()),
        "{only}"
    );
    let all = answers(&host, "all").await;
    assert_eq!(
        (&all["127.0.0.1"], &all["169.254.169.254"]),
        (&"connected".into(), &"denied".into())
    );
    stop(&host).await;

    project.own_addresses.clear();
    project.functions.truncate(1);
    let host = project.host().await;
    let got = answers(&host, "open").await;
    assert!(
        got.as_object()
            .unwrap()
            .values()
            .all(|outcome| outcome == "denied"),
        "{got}"
    );
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn required_layers_decide_whether_the_host_starts() {
    let project = Project::new().function("hello", HELLO);
    for status in layers(&SandboxConfig::default(), &project.state_dir()) {
        let config = tramline_host::HostConfig {
            state_dir: project.state_dir(),
            deno: crate::common::deno(),
            project_dir: project.dir.path().to_owned(),
            limits: project.limits.clone(),
            max_spawns: 1,
            sandbox: SandboxConfig {
                require: vec![status.layer],
                uid: None,
            },
            own_addresses: Vec::new(),
        };
        match Host::start(config, Vec::new()).await {
            Ok(host) => {
                assert!(status.active, "{status:?}");
                stop(&host).await;
            }
            Err(HostError::Sandbox(missing)) => {
                assert!(
                    !status.active && missing.contains(status.layer.name()),
                    "{missing}"
                );
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Compiles a program that a worker runs in Deno's place, and gives what it wrote.
pub async fn outcome_of(program: &str) -> (Project, String) {
    let project = Project::new().function("native", HELLO);
    let source = project.dir.path().join("native.c");
    std::fs::write(&source, program).unwrap();
    let built = project.dir.path().join("native");
    let status = Command::new("cc")
        .arg("-o")
        .arg(&built)
        .arg(&source)
        .status()
        .unwrap();
    assert!(status.success());
    // the bundle is made by Deno; only then does the program take its place
    let host = project.host().await;
    stop(&host).await;
    let host = project.host_with_deno(built).await;
    let text = eventually("the program's words", || {
        let lines = host.recent_logs(None, 100).into_iter();
        let all: Vec<String> = lines.map(|line| line.message).collect();
        all.iter().any(|line| line == "end").then(|| all.join("\n"))
    })
    .await;
    assert!(matches!(
        info(&host, "native").state,
        tramline_host::FunctionState::Broken { .. }
    ));
    stop(&host).await;
    (project, text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_deno_in_it_is_still_fenced_in() {
    let program = r#"
        #define _GNU_SOURCE
        #include <errno.h>
        #include <fcntl.h>
        #include <netinet/in.h>
        #include <sched.h>
        #include <signal.h>
        #include <stdio.h>
        #include <string.h>
        #include <sys/mount.h>
        #include <sys/prctl.h>
        #include <sys/ptrace.h>
        #include <sys/resource.h>
        #include <sys/socket.h>
        #include <sys/stat.h>
        #include <sys/syscall.h>
        #include <unistd.h>
        static void say(const char *name, long result) {
            fprintf(stderr, "%s %s\n", name, result >= 0 ? "worked" : strerror(errno));
        }
        int main(void) {
            char path[4096];
            say("landlock passwd", open("/etc/passwd", O_RDONLY));
            say("landlock environ", open("/proc/self/environ", O_RDONLY));
            say("landlock parent", (snprintf(path, sizeof path, "/proc/%d/environ", getppid()), open(path, O_RDONLY)));
            say("landlock list", open("/", O_RDONLY | O_DIRECTORY));
            say("landlock up", open("../..", O_RDONLY | O_DIRECTORY));
            say("landlock write", open("/tmp/tramline-escape", O_WRONLY | O_CREAT, 0600));
            say("landlock symlink", symlink("/etc/passwd", "link"));
            say("landlock fifo", mkfifo("fifo", 0600));
            char *shell[] = {"/bin/sh", "-c", "true", 0};
            say("landlock exec", execv("/bin/sh", shell));
            say("landlock signal", kill(getppid(), 0));
            int tcp = socket(AF_INET, SOCK_STREAM, 0);
            struct sockaddr_in any = {.sin_family = AF_INET};
            say("landlock bind", bind(tcp, (struct sockaddr *)&any, sizeof any));
            say("seccomp ptrace", ptrace(PTRACE_TRACEME, 0, 0, 0));
            say("seccomp mount", mount("none", ".", "tmpfs", 0, 0));
            say("seccomp unshare", unshare(CLONE_NEWUSER));
            say("seccomp clone", syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0));
            say("seccomp clone3", syscall(SYS_clone3, 0, 0));
            say("seccomp bpf", syscall(SYS_bpf, 0, 0, 0));
            say("seccomp keyctl", syscall(SYS_keyctl, 0, 0, 0, 0, 0));
            say("seccomp userfaultfd", syscall(SYS_userfaultfd, 0));
            say("seccomp perf", syscall(SYS_perf_event_open, 0, 0, 0, 0, 0));
            say("seccomp io_uring", syscall(SYS_io_uring_setup, 1, path));
            say("seccomp packet", socket(AF_PACKET, SOCK_RAW, 0));
            say("seccomp vsock", socket(40, SOCK_STREAM, 0));
            say("uid root", setuid(0));
            fprintf(stderr, "uid is %s\n", getuid() == 0 || geteuid() == 0 || getgid() == 0 ? "root" : "other");
            fprintf(stderr, "privs %d\n", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
            struct rlimit core, data, size;
            getrlimit(RLIMIT_CORE, &core); getrlimit(RLIMIT_DATA, &data); getrlimit(RLIMIT_FSIZE, &size);
            fprintf(stderr, "limits %d\n", core.rlim_max == 0 && data.rlim_max < 2ul << 30 && size.rlim_max < 1ul << 30);
            fprintf(stderr, "session %d\n", getsid(0) == getpid() && getpgid(0) == getpid());
            int big = open("big", O_WRONLY | O_CREAT, 0600);
            say("big file", ftruncate(big, 1l << 40));
            say("own file", big);
            fprintf(stderr, "end\n");
            return 1;
        }
    "#;
    let (project, told) = outcome_of(program).await;
    let lines: Vec<&str> = told.lines().collect();
    let worked = |prefix: &str| {
        let of = lines.iter().filter(|line| line.starts_with(prefix));
        of.filter(|line| line.ends_with(" worked")).collect::<Vec<_>>()
    };
    for (layer, count) in [(Layer::Landlock, 11), (Layer::Seccomp, 12)] {
        if is_active(&project, layer) {
            assert_eq!(worked(layer.name()), Vec::<&&str>::new(), "{told}");
            let tried = lines.iter().filter(|line| line.starts_with(layer.name()));
            assert_eq!(tried.count(), count, "{told}");
        }
    }
    if is_active(&project, Layer::Uid) {
        assert_eq!(worked("uid"), Vec::<&&str>::new(), "{told}");
        assert!(lines.contains(&"uid is other"), "{told}");
    }
    for line in ["privs 1", "limits 1", "session 1", "own file worked"] {
        assert!(lines.contains(&line), "{line}: {told}");
    }
    assert_eq!(worked("big file"), Vec::<&&str>::new(), "{told}");
}
