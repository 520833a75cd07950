//! `tramline function …`.

use std::pin::Pin;

use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt as _};
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::{read_argument, versions};
use crate::cli::{FunctionCommand, Global, InvokeArgs, LogsArgs, Role};
use crate::client::{Client, query, segment};
use crate::exit::{Done, Exit, Failure};
use crate::output;

pub async fn function(global: &Global, command: FunctionCommand) -> Done {
    if let FunctionCommand::New { name } = &command {
        return crate::scaffold::new_function(global, name);
    }
    let client = Client::find(global)?;
    if versions::versions(global, &client, &command).await? {
        return Ok(());
    }
    match command {
        FunctionCommand::New { .. } => Ok(()),
        FunctionCommand::List => list(global, &client).await,
        FunctionCommand::Show { name } => show(global, &client, &name).await,
        FunctionCommand::Invoke(args) => invoke(global, &client, args).await,
        FunctionCommand::Logs(args) => logs(global, &client, args).await,
        // answered above
        FunctionCommand::Versions { .. }
        | FunctionCommand::Activate { .. }
        | FunctionCommand::Rollback { .. }
        | FunctionCommand::Delete { .. } => Ok(()),
    }
}

async fn list(global: &Global, client: &Client) -> Done {
    let functions = client.get("/functions").await?;
    if global.json {
        output::json(&functions);
        return Ok(());
    }
    let rows = functions
        .as_array()
        .into_iter()
        .flatten()
        .map(|function| {
            let version: String = output::cell(&function["version"]).chars().take(12).collect();
            vec![
                output::cell(&function["name"]),
                output::cell(&function["auth"]),
                output::cell(&function["state"]),
                version,
                output::cell(&function["deployed"]),
                output::cell(&function["reason"]),
            ]
        })
        .collect();
    output::table(
        &["name", "auth", "state", "version", "deployed", "reason"],
        rows,
        "no functions; put them into supabase/functions/",
    );
    Ok(())
}

async fn show(global: &Global, client: &Client, name: &str) -> Done {
    let functions = client.get("/functions").await?;
    let all = functions.as_array().map(Vec::as_slice).unwrap_or_default();
    let function = all
        .iter()
        .find(|function| function["name"] == name)
        .ok_or_else(|| Failure::new(Exit::NotFound, format!("no function {name:?}")))?;
    if global.json {
        output::json(function);
        return Ok(());
    }
    let known = ["auth", "state", "version", "deployed", "reason"].into_iter();
    let facts: Vec<(&str, String)> = known
        .filter(|key| !function[key].is_null())
        .map(|key| (key, output::cell(&function[key])))
        .collect();
    output::pairs(&[vec![("function", name.to_owned())], facts].concat());
    output::line("");
    let packages = function["dependencies"].as_array().into_iter().flatten();
    let rows = packages
        .map(|package| {
            ["registry", "name", "version"]
                .map(|key| output::cell(&package[key]))
                .to_vec()
        })
        .collect();
    output::table(&["from", "package", "version"], rows, "no packages in its bundle");
    Ok(())
}

async fn invoke(global: &Global, client: &Client, args: InvokeArgs) -> Done {
    let method: Method = args
        .method
        .to_ascii_uppercase()
        .parse()
        .map_err(|_| Failure::new(Exit::Usage, format!("failed to use the method {:?}", args.method)))?;
    let rest = match args.path.as_deref() {
        None | Some("") => String::new(),
        Some(path) if path.starts_with(['/', '?']) => path.to_owned(),
        Some(path) => format!("/{path}"),
    };
    let mut request = client.request(method, &format!("/functions/v1/{}{rest}", segment(&args.name)));
    let anon = || {
        client
            .dev()
            .map(|dev| dev.anon_key.as_str())
            .or(global.key.as_deref())
            .ok_or_else(|| {
                Failure::new(
                    Exit::Unauthorized,
                    "failed to find the anon key: no `dev` runs here",
                )
                .hint("Give it with --key.")
            })
    };
    request = match args.role {
        Role::Service => request.bearer_auth(client.key()?),
        Role::Anon => request.bearer_auth(anon()?),
        Role::Cron => request.bearer_auth(client.cron_secret().ok_or_else(|| {
            Failure::new(
                Exit::Unauthorized,
                "failed to find the cron secret: no `dev` has run in this project",
            )
        })?),
        Role::Nobody => request,
    };
    if let Some(data) = &args.data {
        let text = read_argument("--data", data)?;
        if serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        request = request.body(text);
    }
    for header in &args.headers {
        let (name, value) = parse_header(header)?;
        request = request.header(name, value);
    }
    let response = client.send(request).await?;
    let status = response.status();
    let headers: serde_json::Map<String, Value> = response
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), json!(String::from_utf8_lossy(value.as_bytes()))))
        .collect();
    let platform = headers.contains_key("sb-error-code");
    if global.json {
        let body = response
            .bytes()
            .await
            .map_err(|error| Failure::of(Exit::Unavailable, &error))?;
        let body = serde_json::from_slice(&body).unwrap_or_else(|_| json!(String::from_utf8_lossy(&body)));
        output::json(&json!({ "status": status.as_u16(), "headers": headers, "body": body }));
    } else {
        output::note(&format!("HTTP {status}"));
        let mut pieces = response.bytes_stream();
        while let Some(piece) = pieces.next().await {
            output::bytes(&piece.map_err(|error| Failure::of(Exit::Unavailable, &error))?);
        }
        output::bytes(b"\n");
    }
    match status.as_u16() {
        ..=399 => Ok(()),
        404 if platform => Err(Failure::new(
            Exit::NotFound,
            format!("no function {:?}", args.name),
        )),
        401 | 403 => Err(Failure::new(
            Exit::Unauthorized,
            format!("{} answered {status}", args.name),
        )),
        _ => Err(
            Failure::new(Exit::RunFailed, format!("{} answered {status}", args.name))
                .hint(format!("See `tramline function logs {}`.", args.name)),
        ),
    }
}

fn parse_header(text: &str) -> Done<(HeaderName, HeaderValue)> {
    let parsed = text.split_once(':').and_then(|(name, value)| {
        Some((
            name.trim().parse::<HeaderName>().ok()?,
            value.trim().parse::<HeaderValue>().ok()?,
        ))
    });
    parsed.ok_or_else(|| {
        Failure::new(
            Exit::Usage,
            format!("failed to read the header {text:?}: write `name: value`"),
        )
    })
}

async fn logs(global: &Global, client: &Client, args: LogsArgs) -> Done {
    let names = match &args.name {
        Some(name) => vec![name.clone()],
        None => {
            let functions = client.get("/functions").await?;
            let names = functions.as_array().into_iter().flatten();
            names
                .filter_map(|function| function["name"].as_str().map(str::to_owned))
                .collect()
        }
    };
    let with_name = names.len() > 1;
    let mut past = Vec::new();
    let mut live: Vec<BoxStream<'_, Done<Value>>> = Vec::new();
    for name in &names {
        let wanted = query(&[
            ("tail", Some(args.tail.to_string())),
            ("follow", args.follow.then(|| "1".to_owned())),
            ("run", args.run.clone()),
            ("request", args.request.clone()),
            ("level", args.level.clone()),
        ]);
        let response = client
            .stream(&format!("/functions/{}/logs{wanted}", segment(name)))
            .await?;
        let lines = lines(response.bytes_stream());
        if args.follow {
            live.push(lines.boxed());
        } else {
            let mut lines = std::pin::pin!(lines);
            while let Some(line) = lines.next().await {
                past.push(line?);
            }
        }
    }
    past.sort_by_key(|line| line["at"].as_i64());
    let first = past.len().saturating_sub(args.tail);
    for line in &past[first..] {
        print_log(global, line, with_name);
    }
    let mut live = stream::select_all(live);
    while let Some(line) = live.next().await {
        print_log(global, &line?, with_name);
    }
    Ok(())
}

fn print_log(global: &Global, line: &Value, with_name: bool) {
    if global.json {
        return output::line(&line.to_string());
    }
    if let Some(missed) = line["missed"].as_u64() {
        return output::note(&format!("({missed} lines were lost: this reader is too slow)"));
    }
    let at = line["at"]
        .as_i64()
        .and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
    let at = at
        .map(|at| {
            at.to_zoned(jiff::tz::TimeZone::system())
                .strftime("%H:%M:%S%.3f")
                .to_string()
        })
        .unwrap_or_default();
    let name = if with_name {
        format!("{} ", output::cell(&line["function"]))
    } else {
        String::new()
    };
    let text = line["message"].as_str().unwrap_or_default().trim_end();
    output::line(&format!("{at} {:<5} {name}{text}", output::cell(&line["level"])));
}

/// The JSON objects of an NDJSON answer; empty lines are heartbeats.
fn lines<S, B>(pieces: S) -> impl Stream<Item = Done<Value>> + Send
where
    S: Stream<Item = reqwest::Result<B>> + Send + 'static,
    B: AsRef<[u8]> + Send,
{
    let pieces: Pin<Box<dyn Stream<Item = reqwest::Result<B>> + Send>> = Box::pin(pieces);
    stream::unfold((pieces, Vec::<u8>::new()), |(mut pieces, mut rest)| async move {
        loop {
            if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                match serde_json::from_slice(&line) {
                    Ok(value) => return Some((Ok(value), (pieces, rest))),
                    Err(_) => continue,
                }
            }
            match pieces.next().await? {
                Ok(piece) => rest.extend_from_slice(piece.as_ref()),
                Err(error) => {
                    return Some((Err(Failure::of(Exit::Unavailable, &error)), (pieces, Vec::new())));
                }
            }
        }
    })
}
