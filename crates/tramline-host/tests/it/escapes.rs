//! Ways out that lead through what a function shares with others: caches, descriptors, sockets, names.

use std::net::UdpSocket;

use tramline_host::Egress;

use crate::common::{Project, call, ok, stop};
use crate::sandbox::{answers, outcome_of};

/// Calls a function that answers with what a thread of its own says. With less memory than this V8 finds no room for a second
/// heap, and ends the process before anything runs in it.
const ROOMY_MB: u64 = 1_024;

fn in_a_thread(code: &str, options: &str) -> String {
    format!(
        "const code = {code:?};
        Deno.serve(() => new Promise((resolve) => {{
            const thread = new Worker('data:application/javascript,' + encodeURIComponent(code), {{ type: 'module'{options} }} as any);
            thread.onmessage = (event) => {{ thread.terminate(); resolve(Response.json(event.data)); }};
            thread.onerror = (event) => {{ event.preventDefault(); resolve(Response.json({{ error: event.message }})); }};
        }}));"
    )
}

fn roomy(spec: &mut tramline_host::FunctionSpec) {
    spec.limits.memory_mb = Some(ROOMY_MB);
}

/// In a thread globals are fresh: what the host takes away from a function is there again.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_function_keeps_in_a_thread_no_other_finds() {
    let source = in_a_thread(
        "const told = { storage: typeof localStorage };
        try {
            const cache = await caches.open('shared');
            told.cache = await cache.match('http://x/') === undefined ? 'empty' : 'found';
            await cache.put('http://x/', new Response('secret'));
        } catch (error) { told.cache = error.name; }
        const attempts = { env: () => Deno.env.get('DENO_DIR'), read: () => Deno.readTextFileSync('/etc/passwd'),
            run: () => new Deno.Command('/bin/true').outputSync() };
        for (const [name, attempt] of Object.entries(attempts)) {
            try { attempt(); told[name] = 'worked'; } catch (error) { told[name] = error.name; }
        }
        postMessage(told);",
        "",
    );
    let project = Project::new()
        .function_with("first", &source, roomy)
        .function_with("second", &source, roomy);
    let host = project.host().await;
    for name in ["first", "second"] {
        let told = answers(&host, name).await;
        assert_eq!(told["storage"], "undefined", "{name}: {told}");
        assert_ne!(told["cache"], "found", "{name}: {told}");
        for attempt in ["env", "read", "run"] {
            assert_eq!(told[attempt], "NotCapable", "{name}, {attempt}: {told}");
        }
    }
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thread_gets_no_more_permissions_and_its_end_is_its_functions_own() {
    let read = "postMessage('read ' + Deno.readTextFileSync('/etc/hosts'))";
    let more = in_a_thread(read, ", deno: { permissions: { read: true } }");
    let project = Project::new()
        .function_with("more", &more, roomy)
        .function("little", &more)
        .function("well", "Deno.serve(() => new Response('well'));");
    let host = project.host().await;
    for name in ["more", "little"] {
        // Deno refuses, or the process ends
        if let Ok((status, text)) = call(&host, name).await {
            assert!(!text.contains("read "), "{name}: {status}: {text}");
        }
        assert_eq!(call(&host, "well").await, ok("well"), "beside {name}");
    }
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_looked_up_only_where_connections_are_allowed() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    let port = server.local_addr().unwrap().port();
    let source = format!(
        "import dns from 'node:dns/promises'; import dgram from 'node:dgram';
        const nameServer = {{ ipAddr: '127.0.0.1', port: {port} }};
        const sent = () => new Promise<void>((resolve, reject) => {{
            const socket = dgram.createSocket('udp4');
            socket.on('error', reject);
            socket.send('secret', {port}, '127.0.0.1', (error) => (socket.close(), error ? reject(error) : resolve()));
        }});
        const resolver = () => {{ const own = new dns.Resolver(); own.setServers(['127.0.0.1:{port}']); return own.resolve4('secret.example.com'); }};
        const attempts: Record<string, () => Promise<unknown>> = {{
            // an answer never comes, and a refusal not always: what counts is what is heard
            deno: () => Promise.race([Deno.resolveDns('secret.example.com', 'A', {{ nameServer }}), new Promise((r) => setTimeout(r, 200))]),
            node: () => Promise.race([resolver(), new Promise((r) => setTimeout(r, 200))]),
            datagram: () => Promise.race([sent(), new Promise((_, late) => setTimeout(late, 1_000, new Error('late')))]),
        }};
        Deno.serve(async () => {{
            const told: Record<string, string> = {{}};
            for (const [name, attempt] of Object.entries(attempts)) {{
                told[name] = await (async () => await attempt())().then(() => 'asked', (error) => String(error.code ?? error.name));
            }}
            return Response.json(told);
        }});"
    );
    let policy = |egress: Egress| move |spec: &mut tramline_host::FunctionSpec| spec.egress = egress;
    let project = Project::new()
        .function_with("none", &source, policy(Egress::None))
        .function_with("other", &source, policy(Egress::Only(vec!["127.0.0.1:1".into()])))
        .function_with("all", &source, policy(Egress::All));
    let host = project.host().await;
    let mut packet = [0; 512];
    for name in ["none", "other"] {
        let told = answers(&host, name).await;
        // what is sent to this machine's own address is there before the answer
        assert!(server.recv(&mut packet).is_err(), "{name} was heard: {told}");
        assert_ne!(told["datagram"], "asked", "{name}: {told}");
    }
    let told = answers(&host, "all").await;
    assert!(server.recv(&mut packet).is_ok(), "nobody was heard: {told}");
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_compiled_code_nor_the_debugger_is_within_reach() {
    let source = "import inspector from 'node:inspector'; import { DatabaseSync } from 'node:sqlite';
        const path = new URL(import.meta.url).pathname;
        const cache = path.slice(0, path.indexOf('/bundles/')) + '/cache';
        const attempts: Record<string, () => unknown> = {
            list: () => Deno.readDirSync(cache).next(),
            read: () => Deno.readFileSync(cache + '/v8_code_cache_v2'),
            write: () => Deno.writeTextFileSync(cache + '/v8_code_cache_v2', 'x', { append: true }),
            open: () => new DatabaseSync(cache + '/v8_code_cache_v2').exec('select 1'),
            bootstrap: () => Deno.readTextFileSync(cache.slice(0, -5) + 'bootstrap.ts'),
            inspector: () => inspector.open(0),
            debugger: () => inspector.url(),
        };
        Deno.serve(() => {
            const told: Record<string, string> = {};
            for (const [name, attempt] of Object.entries(attempts)) {
                try { attempt(); told[name] = 'worked'; } catch { told[name] = 'refused'; }
            }
            return Response.json(told);
        });";
    let mut project = Project::new().function("reach", source);
    // from a process that had its modules of Node before it knew its function, and from one that had not
    project.limits.prestart = 0;
    project.limits.spare_workers = 1;
    let host = project.host().await;
    crate::common::eventually("the spare worker", || (host.stats().spares == 1).then_some(())).await;
    let answer = answers(&host, "reach").await;
    let told = answer.as_object().unwrap();
    assert_eq!(told.len(), 7);
    assert!(told.values().all(|outcome| outcome == "refused"), "{answer}");
    assert_eq!(host.stats().starts_from_spare, 1);
    stop(&host).await;
    project.limits.spare_workers = 0;
    let host = project.host().await;
    assert_eq!(answers(&host, "reach").await, answer);
    stop(&host).await;
}

/// All workers of a node are the same user's: what keeps one from another's socket is that it cannot know the path.
#[tokio::test(flavor = "multi_thread")]
async fn where_a_worker_listens_is_not_to_be_guessed() {
    let hello = "Deno.serve(() => new Response('hello'));";
    let project = Project::new().function("a", hello).function("b", hello);
    let host = project.host().await;
    let run = std::fs::read_dir(project.state_dir().join("run")).unwrap().next();
    let slots = std::fs::read_dir(run.unwrap().unwrap().path()).unwrap();
    let names: Vec<String> = slots
        .map(|slot| slot.unwrap().file_name().into_string().unwrap())
        .collect();
    let numbers: Vec<u64> = names
        .iter()
        .map(|name| u64::from_str_radix(name, 16).unwrap())
        .collect();
    assert!(
        names.len() == 2 && names.iter().all(|name| name.len() == 16),
        "{names:?}"
    );
    assert!(numbers[0].abs_diff(numbers[1]) > 1 << 20, "{names:?}");
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_deno_in_it_inherits_no_descriptor() {
    let program = r#"
        #include <fcntl.h>
        #include <stdio.h>
        #include <sys/stat.h>
        int main(void) {
            struct stat it;
            for (int fd = 3; fd < 4096; fd++)
                if (fcntl(fd, F_GETFD) >= 0 && fstat(fd, &it) == 0)
                    fprintf(stderr, "descriptor %d of kind %o\n", fd, it.st_mode & S_IFMT);
            fprintf(stderr, "end\n");
            return 1;
        }
    "#;
    let (_project, told) = outcome_of(program).await;
    assert!(!told.contains("descriptor "), "{told}");
}
