//! Types that go to and come from the database on the hot path.

use bytes::{BufMut, BytesMut};
use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tramline_core::Millis;

/// JSON that is text already, sent as jsonb.
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
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.put_u8(1); // version of the binary form of jsonb
        out.put_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::JSONB
    }

    to_sql_checked!();
}

/// A point in time as the database wants it. Times beyond what Postgres can hold are cut to the nearest it can.
pub fn timestamp(at: Millis) -> Timestamp {
    Timestamp::from_millisecond(at).unwrap_or(if at < 0 { Timestamp::MIN } else { Timestamp::MAX })
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
