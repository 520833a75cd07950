//! Packages of JSR and deno.land/x, and where else they are.

use super::rewrite::Rewrite;

/// Where a package is instead.
enum Twin {
    /// On npm under this name, with the same versions; only its entry file is meant.
    Npm(&'static str),
    /// As `Npm`, and whatever file is imported, the entry has it too.
    Whole(&'static str),
    /// Here.
    Shim(&'static str),
}

use Twin::{Npm, Shim, Whole};

const JSR: &[(&str, Twin)] = &[
    ("@b-fuze/deno-dom", Shim("deno_dom.ts")),
    ("@db/postgres", Shim("deno_postgres.ts")),
    ("@hono/hono", Npm("hono")),
    ("@oak/oak", Npm("@oakserver/oak")),
    ("@openai/openai", Npm("openai")),
    ("@panva/jose", Npm("jose")),
    ("@valibot/valibot", Npm("valibot")),
    ("@zaubrik/djwt", Shim("djwt.ts")),
    ("@zip-js/zip-js", Npm("@zip.js/zip.js")),
    ("@zod/zod", Npm("zod")),
];

const DENO_LAND_X: &[(&str, Twin)] = &[
    ("bcrypt", Shim("bcrypt.ts")),
    ("cheerio", Npm("cheerio")),
    ("date_fns", Npm("date-fns")),
    ("deno_dom", Shim("deno_dom.ts")),
    ("denomailer", Shim("smtp.ts")),
    ("djwt", Shim("djwt.ts")),
    ("eta", Npm("eta")),
    ("grammy", Npm("grammy")),
    ("grammy_auto_retry", Npm("@grammyjs/auto-retry")),
    ("grammy_conversations", Npm("@grammyjs/conversations")),
    ("grammy_menu", Npm("@grammyjs/menu")),
    ("grammy_runner", Npm("@grammyjs/runner")),
    ("hono", Npm("hono")),
    ("jose", Whole("jose")),
    ("kysely", Npm("kysely")),
    ("ky", Npm("ky")),
    ("marked", Npm("marked")),
    ("nanoid", Npm("nanoid")),
    ("openai", Npm("openai")),
    ("postgres", Shim("deno_postgres.ts")),
    ("postgresjs", Npm("postgres")),
    ("sentry", Npm("@sentry/deno")),
    ("sift", Shim("sift.ts")),
    ("smtp", Shim("smtp.ts")),
    ("supabase", Npm("@supabase/supabase-js")),
    ("upstash_ratelimit", Npm("@upstash/ratelimit")),
    ("upstash_redis", Npm("@upstash/redis")),
    ("valibot", Npm("valibot")),
    // fetch is there, and packages that look for this one find Node's ways instead
    ("xhr", Shim("empty.ts")),
    ("zipjs", Npm("@zip.js/zip.js")),
    ("zod", Npm("zod")),
];

/// A package of JSR; `tail` is what follows its name (`@version/sub`, either may be missing).
pub fn of_jsr(name: &str, tail: &str) -> Rewrite {
    match JSR.iter().find(|(jsr, _)| *jsr == name) {
        Some((_, Npm(npm) | Whole(npm))) => Rewrite::To(format!("npm:{npm}{tail}")),
        Some((_, Shim(shim))) => Rewrite::Shim(shim),
        // the same people publish these on npm, under the same names
        None if name.starts_with("@supabase/") || name.starts_with("@hono/") => {
            Rewrite::To(format!("npm:{name}{tail}"))
        }
        None => Rewrite::Keep,
    }
}

/// A module of deno.land/x: the package's name, its version (`@v1.2.3` or nothing) and the file.
pub fn of_deno_land_x(name: &str, version: &str, file: &str) -> Rewrite {
    let version = version.replacen("@v", "@", 1);
    match (name, file.split('/').collect::<Vec<_>>().as_slice()) {
        ("aws_sdk", [client, _]) => {
            // its own count follows the version of the packages
            let version = version.split('-').next().unwrap_or_default();
            return Rewrite::To(format!("npm:@aws-sdk/{client}{version}"));
        }
        ("hono", ["middleware.ts"]) => return Rewrite::Shim("hono_middleware.ts"),
        ("hono", ["middleware" | "helper", part, _]) => {
            return Rewrite::To(format!("npm:hono{version}/{part}"));
        }
        // npm has few of its versions, and the last of each major one
        ("oak", _) if is_entry(name, file) => {
            let major = version.split('.').next().unwrap_or_default();
            return Rewrite::To(format!("npm:@oakserver/oak{major}"));
        }
        ("dotenv", ["load.ts"]) => return Rewrite::Shim("empty.ts"),
        ("dotenv", ["" | "mod.ts"]) => return Rewrite::Shim("std_dotenv.ts"),
        _ => {}
    }
    match DENO_LAND_X.iter().find(|(x, _)| *x == name) {
        Some((_, Npm(npm))) if is_entry(name, file) => Rewrite::To(format!("npm:{npm}{version}")),
        Some((_, Whole(npm))) => Rewrite::To(format!("npm:{npm}{version}")),
        Some((_, Shim(shim))) => Rewrite::Shim(shim),
        _ => Rewrite::Keep,
    }
}

fn is_entry(name: &str, file: &str) -> bool {
    let file = file.strip_prefix("src/").unwrap_or(file);
    let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
    stem.is_empty() || stem == "mod" || stem == "index" || stem == name
}
