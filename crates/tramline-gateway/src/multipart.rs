//! `multipart/form-data`, written.

use std::fmt::Write as _;

/// One part.
#[derive(Debug, Clone)]
pub struct Part<'a> {
    /// Name of the field.
    pub name: &'a str,
    /// Name of the file, with folders; none for a plain field.
    pub file: Option<&'a str>,
    /// Its media type.
    pub content_type: &'a str,
    /// What it holds.
    pub content: &'a [u8],
}

/// The body and its content type.
pub fn multipart(parts: &[Part<'_>]) -> (String, Vec<u8>) {
    // random, so that no content holds it
    let boundary = format!("tramline-{}", uuid::Uuid::new_v4().simple());
    let mut body = Vec::with_capacity(parts.iter().map(|part| part.content.len() + 256).sum());
    for part in parts {
        let mut head = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{}\"",
            quoted(part.name)
        );
        if let Some(file) = part.file {
            // the platform's clients take the path from a header of its own; names of files lose their folders in some
            // writing to a String cannot fail
            let _ = write!(
                head,
                "; filename=\"{}\"\r\nSupabase-Path: {}",
                quoted(file),
                header(file)
            );
        }
        let _ = write!(head, "\r\nContent-Type: {}\r\n\r\n", part.content_type);
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(part.content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    (format!("multipart/form-data; boundary={boundary}"), body)
}

/// As browsers write it.
fn quoted(text: &str) -> String {
    text.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A")
}

fn header(text: &str) -> String {
    text.replace(['\r', '\n'], "")
}
