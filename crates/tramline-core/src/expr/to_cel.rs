//! JSON to CEL values (strings borrowed) and back, the way back with a budget.

use std::collections::HashMap;

use cel::common::types::{
    CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelOptional, CelString, CelUInt,
};
use cel::common::value::Val;
use serde_json::{Number, Value};

/// A CEL value that borrows the strings of the JSON value.
pub(super) fn to_cel<'v>(value: &'v Value) -> Box<dyn Val + 'v> {
    match value {
        Value::Null => Box::new(CelNull),
        Value::Bool(b) => Box::new(CelBool::from(*b)),
        Value::Number(n) => number_to_cel(n),
        Value::String(s) => Box::new(CelString::from(s.as_str())),
        Value::Array(list) => Box::new(CelList::from(list.iter().map(to_cel).collect::<Vec<_>>())),
        Value::Object(object) => Box::new(CelMap::from(
            object
                .iter()
                .map(|(key, value)| (CelMapKey::from(key.as_str()), to_cel(value)))
                .collect::<HashMap<_, _>>(),
        )),
    }
}

fn number_to_cel(n: &Number) -> Box<dyn Val> {
    if let Some(i) = n.as_i64() {
        Box::new(CelInt::from(i))
    } else if let Some(u) = n.as_u64() {
        Box::new(CelUInt::from(u))
    } else {
        Box::new(CelDouble::from(n.as_f64().unwrap_or(f64::NAN)))
    }
}

/// Why a CEL value is no JSON value.
#[derive(Debug)]
pub(super) enum NotJson {
    TooLarge,
    Kind(String),
}

/// The JSON of a CEL value; `budget` is counted down by about the bytes it will take.
pub(super) fn to_json(value: &dyn Val, budget: &mut usize) -> Result<Value, NotJson> {
    // a number, a comma, a bracket: nothing is smaller than a byte or two
    let mut spend = |bytes: usize| {
        *budget = budget.checked_sub(bytes).ok_or(NotJson::TooLarge)?;
        Ok::<(), NotJson>(())
    };
    spend(2)?;
    if let Some(s) = value.downcast_ref::<CelString>() {
        spend(s.inner().len())?;
        return Ok(Value::from(s.inner()));
    }
    if let Some(list) = value.downcast_ref::<CelList>() {
        return list
            .inner()
            .iter()
            .map(|item| to_json(item.as_ref(), budget))
            .collect();
    }
    if let Some(map) = value.downcast_ref::<CelMap>() {
        let mut object = serde_json::Map::new();
        for (key, value) in map.inner() {
            let key = match to_json(key.inner(), budget)? {
                Value::String(key) => key,
                other => other.to_string(),
            };
            object.insert(key, to_json(value.as_ref(), budget)?);
        }
        return Ok(Value::Object(object));
    }
    if let Some(optional) = value.downcast_ref::<CelOptional>() {
        return match optional.inner() {
            Some(value) => to_json(value, budget),
            None => Ok(Value::Null),
        };
    }
    if let Some(b) = value.downcast_ref::<CelBool>() {
        Ok(Value::from(*b.inner()))
    } else if let Some(i) = value.downcast_ref::<CelInt>() {
        Ok(Value::from(*i.inner()))
    } else if let Some(u) = value.downcast_ref::<CelUInt>() {
        Ok(Value::from(*u.inner()))
    } else if let Some(d) = value.downcast_ref::<CelDouble>() {
        Number::from_f64(*d.inner())
            .map(Value::Number)
            .ok_or_else(|| NotJson::Kind("a number that JSON cannot hold".to_owned()))
    } else if value.downcast_ref::<CelNull>().is_some() {
        Ok(Value::Null)
    } else {
        Err(NotJson::Kind(format!(
            "a value of type `{}`",
            value.get_type().name()
        )))
    }
}
