//! JSON that is kept as its text and read when somebody looks into it.
//!
//! A run's input is passed on far more often than it is looked into. As text it takes a third of the memory that a tree
//! of values takes, and reading, copying and writing it again is most of what a small call would cost.

use std::fmt;
use std::ops::Deref;
use std::sync::OnceLock;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

/// Nesting up to which every reader reads; what is nested deeper is read at once, to know whether it can be.
const PLAIN_DEPTH: usize = 100;
/// Digits of a number up to which it surely is a double.
const PLAIN_DIGITS: usize = 300;

/// One JSON value, as text or as a tree, whichever it was made of; the other is made when it is asked for.
#[derive(Clone)]
pub struct Json {
    text: OnceLock<Box<str>>,
    // in a box: most of what is kept is never looked into
    value: OnceLock<Box<Value>>,
    /// Whether the database surely takes the text.
    sure: OnceLock<bool>,
}

impl Json {
    /// Keeps a text that is JSON.
    ///
    /// # Errors
    /// With the words of the reader when it is no JSON, is nested deeper than can be read, or holds a number that cannot be.
    pub fn of_text(text: impl Into<Box<str>>) -> Result<Self, String> {
        let text = text.into();
        let value = OnceLock::new();
        if is_plain(&text) {
            serde_json::from_str::<IgnoredAny>(&text).map_err(|e| e.to_string())?;
        } else {
            let read: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
            let _ = value.set(Box::new(read));
        }
        Ok(Self {
            text: OnceLock::from(text),
            value,
            sure: OnceLock::new(),
        })
    }

    /// The text, compact if it was made here.
    pub fn text(&self) -> &str {
        self.text.get_or_init(|| written(self.value()).into())
    }

    /// The tree.
    pub fn value(&self) -> &Value {
        self.value.get_or_init(|| {
            let read = self.text.get().and_then(|text| serde_json::from_str(text).ok());
            debug_assert!(read.is_some(), "what was accepted can be read");
            read.unwrap_or_default()
        })
    }

    /// Reads it as a type of the caller's, from its text: nothing of that is kept here.
    ///
    /// # Errors
    /// When it is of another shape, with the words of the reader.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.text())
    }

    /// The same as its text alone, a third of what both take.
    #[must_use]
    pub fn into_text_alone(self) -> Self {
        self.text();
        Self {
            text: self.text,
            value: OnceLock::new(),
            sure: self.sure,
        }
    }

    /// Whether Postgres' `jsonb` takes the text for sure: then nobody has to try. What was made of a tree is written here, so
    /// that the tree says it. A text of somebody else's may repeat keys, so that its tree does not show everything; it is
    /// sure as long as it has nothing that `jsonb` looks at more closely than the grammar of JSON: escapes by number, large numbers, depth.
    pub fn is_sure(&self) -> bool {
        *self
            .sure
            .get_or_init(|| match (self.text.get(), self.value.get()) {
                (None, Some(value)) => super::check_storable(value).is_ok(),
                (Some(text), _) => is_plain(text),
                (None, None) => false,
            })
    }
}

/// The compact text of a value. Not by its `Display`, which writes through a formatter.
fn written(value: &Value) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| value.to_string())
}

impl From<Value> for Json {
    fn from(value: Value) -> Self {
        Self {
            text: OnceLock::new(),
            value: OnceLock::from(Box::new(value)),
            sure: OnceLock::new(),
        }
    }
}

impl Default for Json {
    fn default() -> Self {
        Value::Null.into()
    }
}

impl Deref for Json {
    type Target = Value;

    fn deref(&self) -> &Value {
        self.value()
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.value() == other.value()
    }
}

impl PartialEq<Value> for Json {
    fn eq(&self, other: &Value) -> bool {
        self.value() == other
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether a text, if it is JSON, can be read for sure: no depth and no number is near a limit of the reader, and no character is
/// escaped by its number, which may be half of one.
fn is_plain(text: &str) -> bool {
    let (mut depth, mut digits) = (0_usize, 0_usize);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'\\' if bytes.next() == Some(b'u') => return false,
                        b'"' => break,
                        _ => {}
                    }
                }
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        let is_exponent = digits > 0 && matches!(byte, b'e' | b'E');
        digits = if byte.is_ascii_digit() { digits + 1 } else { 0 };
        if is_exponent || depth > PLAIN_DEPTH || digits > PLAIN_DIGITS {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_kept_as_text_is_the_same_value() {
        for text in [
            "null",
            r#" {"a" : [1, 2.5, -3e10, "x\"]}", true], "é": {}} "#,
            "[[[]]]",
            "\"\"",
            "12345678901234567890123",
        ] {
            let json = Json::of_text(text).unwrap();
            assert_eq!(json.value(), &serde_json::from_str::<Value>(text).unwrap());
            assert_eq!(json.text(), text);
            assert_eq!(Json::from(json.value().clone()), json);
        }
        assert_eq!(Json::from(json!({ "b": [1] })).text(), r#"{"b":[1]}"#);
        let alone = Json::from(json!({ "b": [1] })).into_text_alone();
        assert!(alone.value.get().is_none(), "the tree is dropped");
        assert_eq!(alone.value(), &json!({ "b": [1] }));
        assert_eq!(alone.parse::<BTreeMap<String, Vec<u8>>>().unwrap()["b"], [1]);
        assert!(alone.parse::<Vec<u8>>().is_err());
        assert_eq!(Json::default().text(), "null");
    }

    #[test]
    fn what_cannot_be_read_is_refused_when_it_comes() {
        let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
        let huge = "9".repeat(500);
        for text in [
            "\"\\ud800\"",
            "",
            "{",
            "[1,]",
            "nul",
            "1 2",
            "\"a",
            &deep,
            "1e999",
            &huge,
        ] {
            assert_eq!(Json::of_text(text).is_ok(), readable(text), "{text}");
        }
        assert!(Json::of_text("{").is_err() && Json::of_text(deep.as_str()).is_err());
        let nested = format!("{}1{}", "[".repeat(110), "]".repeat(110));
        assert!(Json::of_text(nested).is_ok(), "deep, and can be read");
    }

    #[test]
    fn sure_is_what_a_tree_says_and_of_a_text_what_hides_nothing() {
        assert!(Json::from(json!({ "a": "\u{1}é", "b": [1.5e300] })).is_sure());
        assert!(!Json::from(json!({ "a": "\0" })).is_sure());
        let of = |text: &str| Json::of_text(text).unwrap();
        assert!(of(r#"{"a": 1, "a": "x\n"}"#).is_sure());
        for text in [r#"{"a": "\u0000", "a": 1}"#, "1e5", r#""\u00e9""#] {
            assert!(!of(text).is_sure(), "{text}");
        }
        // What a tree said holds for the text that was written of it.
        let tree = Json::from(json!("\u{1}"));
        assert!(tree.is_sure());
        assert!(tree.clone().into_text_alone().is_sure() && tree.into_text_alone().text().contains("\\u"));
    }

    fn readable(text: &str) -> bool {
        serde_json::from_str::<Value>(text).is_ok()
    }

    proptest! {
        #[test]
        fn it_accepts_exactly_what_can_be_read(text in r#"([\[\]{}",:0-9eE.+\-truefalsn\\ ]|\\u[d0][89c0]00){0,24}"#) {
            prop_assert_eq!(Json::of_text(text.as_str()).is_ok(), readable(&text));
        }
    }
}
