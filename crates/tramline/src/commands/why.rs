//! `tramline why …`.

use uuid::Uuid;

use crate::cli::{Global, WhyArgs};
use crate::client::{Client, segment};
use crate::exit::Done;
use crate::output;

pub async fn why(global: &Global, args: WhyArgs) -> Done {
    let client = Client::find(global)?;
    let (kind, subject) = (
        match Uuid::try_parse(&args.subject) {
            Ok(_) => "run",
            Err(_) => "queue",
        },
        segment(&args.subject),
    );
    let why = client.get(&format!("/{kind}s/{subject}/why")).await?;
    if global.json {
        output::json(&why);
        return Ok(());
    }
    let status = match why["status"].as_str() {
        Some(status) => format!(" ({status})"),
        None => String::new(),
    };
    output::line(&format!("{kind} {}{status}:", args.subject));
    for reason in why["reasons"].as_array().into_iter().flatten() {
        output::line(&format!("- {}", reason["sentence"].as_str().unwrap_or_default()));
    }
    Ok(())
}
