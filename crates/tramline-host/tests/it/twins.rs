//! Imports of other registries than npm: their twins there, and the modules that stand in for the rest.

use http::Request;
use tramline_host::Host;

use crate::common::{Project, body, call, context, ok, reason, stop, text, within};

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_the_standard_library_are_here() {
    let source = r#"
        import { crypto, toHashString } from "https://deno.land/std@0.177.0/crypto/mod.ts";
        import { deleteCookie, getCookies, setCookie } from "https://deno.land/std@0.168.0/http/cookie.ts";
        import { createHash, HmacSha256 } from "https://deno.land/std@0.160.0/hash/mod.ts";
        import { difference, format } from "https://deno.land/std@0.192.0/datetime/mod.ts";
        import { parse as csv, stringify } from "https://deno.land/std@0.192.0/encoding/csv.ts";
        import { assertEquals, assertThrows } from "https://deno.land/std@0.192.0/testing/asserts.ts";
        import { parse as yaml } from "jsr:@std/yaml@1";
        import { validate } from "https://deno.land/std@0.168.0/uuid/v4.ts";
        import { basename } from "jsr:@std/path@1/basename";
        import { retry } from "jsr:@std/async@1/retry";
        import { escape } from "jsr:@std/html";
        import { concat } from "jsr:@std/bytes@1/concat";
        import { ulid } from "jsr:@std/ulid";
        import { load } from "https://deno.land/std@0.224.0/dotenv/mod.ts";
        import * as log from "jsr:@std/log";
        import data from "./data.json" assert { type: "json" };

        const told: Record<string, unknown> = {};
        told.md5 = toHashString(await crypto.subtle.digest("MD5", new TextEncoder().encode("a")));
        told.sha = toHashString(await crypto.subtle.digest("SHA-1", new TextEncoder().encode("a")), "base64");
        told.hash = createHash("md5").update("a").toString();
        told.hmac = new HmacSha256("key").update("a").hex().slice(0, 8);
        const headers = new Headers({ cookie: "a=1; b=x=y" });
        told.cookies = getCookies(headers);
        setCookie(headers, { name: "s", value: "v", httpOnly: true, maxAge: 5, path: "/", sameSite: "Lax" });
        deleteCookie(headers, "t");
        told.set = headers.getSetCookie();
        assertThrows(() => setCookie(headers, { name: "a", value: "b; Secure" }));
        told.date = format(new Date(0), "yyyy-MM-dd HH:mm:ss.SSS a 'at' h", { utc: true });
        told.days = difference(new Date(0), new Date(86_400_000 * 3)).days;
        told.rows = csv("a,b\n1,\"x,y\"");
        told.named = csv("a,b\n1,2", { skipFirstRow: true });
        told.text = stringify([{ a: 1, b: "x,y" }], { columns: ["a", "b"] });
        told.yaml = yaml("a: [1, 2]");
        told.uuid = [validate(crypto.randomUUID()), validate("no"), ulid().length];
        let tries = 0;
        told.tries = await retry(() => { if (++tries < 3) throw new Error("again"); return tries; }, { minTimeout: 1 });
        told.rest = [basename("/a/b.txt"), escape("<&"), concat(new Uint8Array([1]), new Uint8Array([2])).length];
        told.env = (await load()).NAME;
        log.info("logged");
        assertEquals(data, { name: "data" });
        Deno.serve(() => Response.json(told));
    "#;
    let project = Project::new()
        .file("std/data.json", r#"{"name": "data"}"#)
        .function_with("std", source, |spec| spec.env = Project::env("NAME", "value"));
    let host = project.host().await;
    let (status, told) = call(&host, "std").await.unwrap();
    assert_eq!(status, 200, "{told}");
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let expected = serde_json::json!({
        "md5": "0cc175b9c0f1b6a831c399e269772661",
        "sha": "hvfkN/qlp/zhXR3cuerq6jd2Z7g=",
        "hash": "0cc175b9c0f1b6a831c399e269772661",
        "hmac": "780c3db4",
        "cookies": { "a": "1", "b": "x=y" },
        "set": ["s=v; HttpOnly; Max-Age=5; SameSite=Lax; Path=/", "t=; Expires=Thu, 01 Jan 1970 00:00:00 GMT"],
        "date": "1970-01-01 00:00:00.000 AM at 12",
        "days": 3,
        "rows": [["a", "b"], ["1", "x,y"]],
        "named": [{ "a": "1", "b": "2" }],
        "text": "a,b\r\n1,\"x,y\"\r\n",
        "yaml": { "a": [1, 2] },
        "uuid": [true, false, 26],
        "tries": 3,
        "rest": ["b.txt", "&lt;&amp;", 2],
        "env": "value",
    });
    assert_eq!(told, expected);
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_of_deno_land_are_found_on_npm_or_stood_in_for() {
    let source = r#"
        import "https://deno.land/x/xhr@0.1.0/mod.ts";
        import "https://deno.land/x/dotenv@v3.2.2/load.ts";
        import * as bcrypt from "https://deno.land/x/bcrypt@v0.4.1/mod.ts";
        import { create, decode, getNumericDate, verify } from "https://deno.land/x/djwt@v2.8/mod.ts";
        import { DOMParser } from "https://deno.land/x/deno_dom@v0.1.38/deno-dom-wasm.ts";
        import { SMTPClient } from "https://deno.land/x/denomailer@1.6.0/mod.ts";
        import { SmtpClient } from "https://deno.land/x/smtp@v0.7.0/mod.ts";
        import { SignJWT } from "https://deno.land/x/jose@v4.14.4/jwt/sign.ts";
        import { cors } from "https://deno.land/x/hono@v3.11.7/middleware.ts";
        import { z } from "https://unpkg.com/zod@3.22.4";
        import nacl from "https://cdn.skypack.dev/tweetnacl@v1.0.3?dts";
        const told: Record<string, unknown> = {};
        const hashed = await bcrypt.hash("word", await bcrypt.genSalt(4));
        told.bcrypt = [await bcrypt.compare("word", hashed), bcrypt.compareSync("other", hashed)];
        const key = await crypto.subtle.generateKey({ name: "HMAC", hash: "SHA-256" }, true, ["sign", "verify"]);
        const token = await create({ alg: "HS256", typ: "JWT" }, { sub: "ada", exp: getNumericDate(60) }, key);
        told.djwt = [(await verify(token, key)).sub, (decode(token)[0] as { alg: string }).alg];
        const says = async (work: () => Promise<unknown>) => { try { await work(); return "accepted"; } catch (e) { return (e as Error).message; } };
        told.late = await says(async () => verify(await create({ alg: "HS256" }, { exp: getNumericDate(-60) }, key), key));
        told.forged = await says(() => verify(token.slice(0, -4) + "AAAA", key)) !== "accepted";
        const rsa = await crypto.subtle.generateKey(
            { name: "RSASSA-PKCS1-v1_5", modulusLength: 2048, publicExponent: new Uint8Array([1, 0, 1]), hash: "SHA-256" }, true, ["sign", "verify"]);
        told.confused = await says(() => verify(token, rsa.publicKey)) !== "accepted";
        told.dom = new DOMParser().parseFromString("<p class='x'>a <b>b</b></p>", "text/html").querySelector(".x")?.textContent;
        const smtp = new SMTPClient({ connection: { hostname: "127.0.0.1", port: 1 } });
        told.smtp = (await says(() => smtp.send({ from: "a@example.com", to: "b@example.com", subject: "s", content: "c" }))).includes("127.0.0.1:1");
        told.kinds = [SmtpClient, SignJWT, cors, z.string, nacl.sign].map((it) => typeof it);
        Deno.serve(() => Response.json(told));
    "#;
    let project = Project::new().function_with("x", source, |spec| {
        spec.egress = tramline_host::Egress::All;
    });
    let host = project.host().await;
    let (status, told) = call(&host, "x").await.unwrap();
    assert_eq!(status, 200, "{told}");
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let expected = serde_json::json!({
        "bcrypt": [true, false],
        "djwt": ["ada", "HS256"],
        "late": "The jwt is expired.",
        "forged": true,
        "confused": true,
        "dom": "a b",
        "smtp": true,
        "kinds": ["function", "function", "function", "function", "function"],
    });
    assert_eq!(told, expected);
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_of_deno_land_takes_handlers_by_path() {
    let source = r#"
        import { json, serve, validateRequest } from "https://deno.land/x/sift@0.6.0/mod.ts";
        serve({
            "/sift": async (request) => {
                const { error } = await validateRequest(request, { POST: { headers: ["x-signature"] } });
                return error ? json({ error: error.message }, { status: error.status }) : json({ ok: true });
            },
            "/sift/:id": (_request, _connection, params) => json(params),
        });
    "#;
    let project = Project::new().function("sift", source);
    let host = project.host().await;
    let ask = async |method: &str, path: &str, signed: bool| {
        let request = Request::builder().method(method).uri(path);
        let request = if signed {
            request.header("x-signature", "s")
        } else {
            request
        };
        ask(&host, request.body(body("")).unwrap()).await
    };
    let (status, told) = ask("GET", "/sift", false).await;
    assert_eq!(
        (status, told.contains("GET is not allowed")),
        (405, true),
        "{told}"
    );
    assert_eq!(ask("POST", "/sift", false).await.0, 400);
    assert_eq!(ask("POST", "/sift", true).await, (200, "{\"ok\":true}\n".into()));
    assert_eq!(
        ask("GET", "/sift/7", false).await,
        (200, "{\"id\":\"7\"}\n".into())
    );
    assert_eq!(ask("GET", "/sift/7/8", false).await.0, 404);
    stop(&host).await;
}

async fn ask(host: &Host, request: Request<tramline_host::Body>) -> (u16, String) {
    let response = within("an answer", host.call("sift", request, context()))
        .await
        .unwrap();
    (response.status().as_u16(), text(response).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_the_platform_only_is_told_by_name() {
    let project = Project::new()
        .function(
            "models",
            "const model = new Supabase.ai.Session('gte-small'); Deno.serve(() => new Response(model));",
        )
        .function(
            "later",
            "Deno.serve(async (req) => new Response(await new Supabase.ai.Session('gte-small').run(await req.text())));",
        )
        .function(
            "unknown",
            "import { x } from 'https://deno.land/x/nobody_stands_in_for_this@v1/mod.ts'; Deno.serve(() => new Response(x));",
        )
        .function(
            "part",
            "import { nothing } from 'https://deno.land/std@0.168.0/http/cookie.ts'; Deno.serve(() => new Response(nothing));",
        );
    let host = project.host().await;
    let told = reason(&host, "models");
    assert!(
        told.contains("Supabase.ai has no models here (gte-small)"),
        "{told}"
    );
    assert_eq!(call(&host, "later").await.unwrap().0, 500);
    let told = reason(&host, "unknown");
    assert!(
        told.contains("nobody_stands_in_for_this@v1/mod.ts") && told.contains("unknown/index.ts"),
        "{told}"
    );
    let told = reason(&host, "part");
    assert!(
        told.contains("nothing") && told.contains("std_http_cookie.ts"),
        "{told}"
    );
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_the_first_versions_of_the_standard_library_listens() {
    let source = "import { listenAndServe } from 'https://deno.land/std@0.114.0/http/server.ts';
        await listenAndServe(':8000', () => new Response('old'));";
    let project = Project::new().function("old", source);
    let host = project.host().await;
    assert_eq!(call(&host, "old").await, ok("old"));
    stop(&host).await;
}
