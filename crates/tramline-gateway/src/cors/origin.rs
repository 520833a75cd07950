//! Origins that may be allowed: exact ones, and patterns for the previews of one project.

use http::Uri;

/// An allowed origin: `scheme://host[:port]` in lower case, or such a text with one `*` in the first label of its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(Form);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    Exact(String),
    /// What stands before and after the `*`.
    Preview {
        before: String,
        after: String,
    },
}

/// Longest label of a host name.
const LABEL_MAX: usize = 63;

/// Why a text is not an origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadOrigin {
    /// It is none as browsers send them.
    #[error("use {0:?} as a CORS origin: write scheme://host[:port] in lower case, without path")]
    Malformed(String),
    /// It would allow hosts of others.
    #[error(
        "use {0:?} as a CORS origin: a pattern has one * in the first label of its host and at least two whole labels \
         after it, as in https://*-team.preview.example"
    )]
    Pattern(String),
}

impl Origin {
    /// Parses an origin as browsers send it, or a pattern. The `*` of a pattern stands for letters, digits and hyphens of
    /// one label, never for a dot.
    pub fn parse(text: &str) -> Result<Self, BadOrigin> {
        let Some((before, after)) = text.split_once('*') else {
            return match is_origin(text) {
                true => Ok(Self(Form::Exact(text.to_owned()))),
                false => Err(BadOrigin::Malformed(text.to_owned())),
            };
        };
        let bad = || BadOrigin::Pattern(text.to_owned());
        // What any preview would look like must itself be an origin.
        if after.contains('*') || !is_origin(&format!("{before}x{after}")) {
            return Err(bad());
        }
        let host_before = before.split_once("://").map_or("", |(_, host)| host);
        let host_after = after.split_once(':').map_or(after, |(host, _)| host);
        let labels: Vec<&str> = host_after.split('.').skip(1).collect();
        if host_before.contains(['.', '[']) || labels.len() < 2 || labels.contains(&"") {
            return Err(bad());
        }
        Ok(Self(Form::Preview {
            before: before.to_owned(),
            after: after.to_owned(),
        }))
    }

    /// Whether a request's `Origin` is this one.
    pub(super) fn is(&self, origin: &[u8]) -> bool {
        match &self.0 {
            Form::Exact(known) => known.as_bytes() == origin,
            Form::Preview { before, after } => origin
                .strip_prefix(before.as_bytes())
                .and_then(|rest| rest.strip_suffix(after.as_bytes()))
                .is_some_and(|star| is_star(star, before, after)),
        }
    }
}

/// Whether this part may stand for the `*`. Names in another script (`xn--…`) look like others, so they are never meant.
fn is_star(star: &[u8], before: &str, after: &str) -> bool {
    let starts_label = before.ends_with("://");
    let label = before.rsplit('/').next().map_or(0, str::len)
        + star.len()
        + after.split('.').next().map_or(0, str::len);
    !star.is_empty()
        && label <= LABEL_MAX
        && star
            .iter()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
        && !(starts_label && (star.starts_with(b"-") || star.starts_with(b"xn--")))
        && !(after.starts_with('.') && star.ends_with(b"-"))
}

fn is_origin(text: &str) -> bool {
    let Ok(uri) = text.parse::<Uri>() else {
        return false;
    };
    let (Some(scheme @ ("http" | "https")), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return false;
    };
    let host = authority.host();
    let odd = |c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || "-.[]:".contains(c));
    format!("{scheme}://{authority}") == text
        && !text.contains('@')
        && !host.is_empty()
        && !host.ends_with('.')
        && !host.contains(odd)
}
