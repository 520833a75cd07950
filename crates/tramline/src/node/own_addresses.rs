//! Addresses of the node's own services, which functions may reach although they are private.

use std::collections::BTreeSet;
use std::net::IpAddr;

use reqwest::Url;

/// The addresses that the hosts of these URLs have now. A name that does not resolve has none: then functions cannot
/// reach it either.
pub(super) async fn of(urls: [&str; 2]) -> Vec<IpAddr> {
    let mut all = BTreeSet::new();
    for url in urls {
        let Some((host, port)) = host_of(url) else {
            continue;
        };
        match tokio::net::lookup_host((host.as_str(), port)).await {
            Ok(found) => all.extend(found.map(|address| address.ip())),
            Err(error) => tracing::warn!(%host, %error, "functions cannot reach a host of the node's own"),
        }
    }
    all.into_iter().collect()
}

fn host_of(url: &str) -> Option<(String, u16)> {
    let url = Url::parse(url).ok()?;
    let host = url.host_str()?.trim_matches(['[', ']']).to_owned();
    Some((host, url.port_or_known_default().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn hosts_are_found_in_both_urls_and_named_once() {
        let found = of([
            "http://127.0.0.1:54321",
            "postgres://a:b@127.0.0.1:54322/postgres",
        ])
        .await;
        assert_eq!(found, ["127.0.0.1".parse::<IpAddr>().unwrap()]);
        let found = of(["http://[::1]:1", "postgres://user@10.1.2.3/db"]).await;
        assert_eq!(
            found,
            ["10.1.2.3".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()]
        );
    }
}
