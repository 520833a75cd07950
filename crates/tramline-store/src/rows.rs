//! Types that go to and come from the database on the hot path.

use std::ops::Range;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use tramline_core::Millis;
use tramline_core::json::Json;

/// JSON that is text already, sent as jsonb or as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jsonb(pub String);

impl Jsonb {
    /// The text of a value.
    pub fn of(value: &Value) -> Self {
        Self(value.to_string())
    }
}

impl ToSql for Jsonb {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        if *ty == Type::JSONB {
            out.put_u8(JSONB_FORM);
        }
        out.put_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::JSONB || *ty == Type::TEXT
    }

    to_sql_checked!();
}

/// JSON that others keep, too, sent as text.
#[derive(Debug, Clone)]
pub struct SharedJson(pub Arc<Json>);

impl ToSql for SharedJson {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.put_slice(self.0.text().as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TEXT
    }

    to_sql_checked!();
}

/// Version of the binary form of jsonb.
const JSONB_FORM: u8 = 1;

/// JSON as the database sends it, not read yet: small to keep, and of no cost to whoever only passes it on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonText(Box<str>);

impl JsonText {
    /// Text that is JSON.
    pub fn of(text: &str) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The text, for whoever keeps it.
    pub fn into_text(self) -> Box<str> {
        self.0
    }

    /// The value.
    ///
    /// # Errors
    /// With the words of the reader when it is nested deeper than it can be read (128 levels); jsonb is well-formed otherwise.
    pub fn read(&self) -> Result<Value, String> {
        serde_json::from_str(&self.0).map_err(|e| e.to_string())
    }

    /// Bytes that it takes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never: there is no empty JSON.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> FromSql<'a> for JsonText {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        let text = match raw.split_first() {
            _ if *ty == Type::TEXT => raw,
            Some((&JSONB_FORM, text)) => text,
            _ => return Err("an unknown form of jsonb".into()),
        };
        Ok(Self(std::str::from_utf8(text)?.into()))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::JSONB || *ty == Type::TEXT
    }
}

/// A column of JSON for somebody who looks at it: what cannot be read is replaced by a sentence that says so.
pub(crate) fn shown(row: &Row, column: usize) -> Option<Value> {
    let text: JsonText = row.get::<_, Option<_>>(column)?;
    let value = text.read();
    Some(value.unwrap_or_else(|reason| Value::String(format!("cannot be shown: {reason}"))))
}

/// A transaction id that does not wrap around.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Xid(pub(crate) u64);

impl<'a> FromSql<'a> for Xid {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(u64::from_be_bytes(raw.try_into()?)))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::XID8
    }
}

/// A point in time as the database wants it. Times beyond what Postgres can hold are cut to the nearest it can.
pub fn timestamp(at: Millis) -> Timestamp {
    Timestamp::from_millisecond(at).unwrap_or(if at < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

/// A point in time in a batch, in Unix microseconds, written without a calendar in between.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At(i64);

/// Where timestamps of the database count from, 2000-01-01 in UTC, in Unix milliseconds.
const POSTGRES_EPOCH: Millis = 946_684_800_000;
/// Times far from any end of any calendar: from 1970 into the year 9987.
const NEAR: Range<Millis> = 0..253_000_000_000_000;

impl At {
    pub(crate) fn of(at: Millis) -> Self {
        Self(at.saturating_mul(1_000))
    }

    /// The same, with the place among what happened in this millisecond as its microseconds: `seq` rises by one for everything, and
    /// follows the clock. Two steps of a run may end within a millisecond; whoever lists them wants them in their order.
    pub(crate) fn in_order(at: Millis, seq: i64) -> Self {
        let first = at.saturating_mul(1_000);
        Self(seq.clamp(first, first.saturating_add(999)))
    }
}

impl ToSql for At {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        let at = self.0.div_euclid(1_000);
        if !NEAR.contains(&at) {
            return timestamp(at).to_sql(&Type::TIMESTAMPTZ, out);
        }
        out.put_i64(self.0 - POSTGRES_EPOCH * 1_000);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }

    to_sql_checked!();
}

/// The first millisecond that is not before a point in time: what is due then may not start earlier.
pub fn millis_up(at: Timestamp) -> Millis {
    let down = at.as_millisecond();
    if at.as_microsecond() > down.saturating_mul(1000) {
        down + 1
    } else {
        down
    }
}

/// A point in time as the core wants it.
pub fn millis(at: Timestamp) -> Millis {
    at.as_millisecond()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_in_a_batch_is_written_as_its_timestamp() {
        let edges = [Timestamp::MIN, Timestamp::MAX].map(Timestamp::as_millisecond);
        let near = |at: Millis| [at.saturating_sub(1), at, at.saturating_add(1)];
        let times = [
            NEAR.start,
            NEAR.end,
            POSTGRES_EPOCH,
            1_800_000_000_123,
            Millis::MIN,
            Millis::MAX,
        ];
        for at in times.into_iter().chain(edges).flat_map(near) {
            let (mut written, mut expected) = (BytesMut::new(), BytesMut::new());
            At::of(at).to_sql(&Type::TIMESTAMPTZ, &mut written).unwrap();
            timestamp(at).to_sql(&Type::TIMESTAMPTZ, &mut expected).unwrap();
            assert_eq!(written, expected, "{at}");
        }
    }

    #[test]
    fn what_happens_within_a_millisecond_keeps_its_order_and_its_millisecond() {
        let at = |seq| At::in_order(7, seq).0;
        assert_eq!([at(7_000), at(7_001), at(7_999)], [7_000, 7_001, 7_999]);
        assert_eq!([at(6_000), at(8_500)], [7_000, 7_999], "beside its millisecond");
        assert_eq!(At::in_order(Millis::MAX, 1).0, i64::MAX);
    }
}
