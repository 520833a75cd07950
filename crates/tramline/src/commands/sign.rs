//! `tramline sign`.

use serde_json::json;

use crate::cli::{Global, SignArgs};
use crate::client::Client;
use crate::exit::Done;
use crate::output;

/// Prints a link to a public function that is good until it expires.
pub async fn sign(global: &Global, args: SignArgs) -> Done {
    let client = Client::find(global)?;
    let (path, query) = args.path.split_once('?').unwrap_or((&args.path, ""));
    let body = json!({
        "function": args.function, "path": path, "query": query, "method": args.method, "expires_in": args.expires,
    });
    let signed = client.post("/links", Some(&body)).await?;
    if global.json {
        output::json(&signed);
    } else {
        output::line(&output::cell(&signed["path"]));
    }
    Ok(())
}
