//! Any value of the strict subset, ordered as its encoding is: what a root's `ext` may hold.

use crate::ids::Bytes;
use serde::{Deserialize, Serialize, de, ser::SerializeMap};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

/// A value of the strict subset. `Ord` is the order of the encoded bytes (RFC 8949 §4.2.1).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Value {
    /// A number from 0.
    Unsigned(u64),
    /// The number −1 − n.
    Negative(u64),
    /// Bytes.
    Bytes(Bytes),
    /// Text.
    Text(String),
    /// Items in order.
    Array(Vec<Value>),
    /// Keys and values, ascending by encoded key.
    Map(BTreeMap<Value, Value>),
    /// False or true.
    Bool(bool),
}

impl Value {
    fn rank(&self) -> u8 {
        match self {
            Self::Unsigned(_) => 0,
            Self::Negative(_) => 1,
            Self::Bytes(_) => 2,
            Self::Text(_) => 3,
            Self::Array(_) => 4,
            Self::Map(_) => 5,
            Self::Bool(_) => 7,
        }
    }
}

impl Ord for Value {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Unsigned(a), Self::Unsigned(b)) | (Self::Negative(a), Self::Negative(b)) => a.cmp(b),
            (Self::Bytes(a), Self::Bytes(b)) => a.0.len().cmp(&b.0.len()).then_with(|| a.cmp(b)),
            (Self::Text(a), Self::Text(b)) => a.len().cmp(&b.len()).then_with(|| a.cmp(b)),
            (Self::Array(a), Self::Array(b)) => a.len().cmp(&b.len()).then_with(|| a.cmp(b)),
            (Self::Map(a), Self::Map(b)) => a.len().cmp(&b.len()).then_with(|| a.iter().cmp(b.iter())),
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Value {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Serialize for Value {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Unsigned(n) => s.serialize_u64(*n),
            Self::Negative(n) => s.serialize_i128(-1 - i128::from(*n)),
            Self::Bytes(b) => b.serialize(s),
            Self::Text(t) => s.serialize_str(t),
            Self::Array(items) => items.serialize(s),
            Self::Map(entries) => {
                let mut map = s.serialize_map(Some(entries.len()))?;
                for (k, v) in entries {
                    map.serialize_entry(k, v)?;
                }
                map.end()
            }
            Self::Bool(b) => s.serialize_bool(*b),
        }
    }
}

struct Visitor;

impl<'de> de::Visitor<'de> for Visitor {
    type Value = Value;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, bytes, text, array, map or boolean")
    }
    fn visit_bool<E: de::Error>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }
    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Value, E> {
        Ok(Value::Unsigned(v))
    }
    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Value, E> {
        self.visit_i128(i128::from(v))
    }
    fn visit_i128<E: de::Error>(self, v: i128) -> Result<Value, E> {
        u64::try_from(v)
            .map(Value::Unsigned)
            .or_else(|_| u64::try_from(-1 - v).map(Value::Negative))
            .map_err(|_| de::Error::custom("a number beyond 64 bits"))
    }
    fn visit_str<E: de::Error>(self, v: &str) -> Result<Value, E> {
        Ok(Value::Text(v.to_owned()))
    }
    fn visit_bytes<E: de::Error>(self, v: &[u8]) -> Result<Value, E> {
        Ok(Value::Bytes(Bytes(v.to_vec())))
    }
    fn visit_seq<A: de::SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }
    fn visit_map<A: de::MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some((k, v)) = access.next_entry()? {
            entries.insert(k, v);
        }
        Ok(Value::Map(entries))
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: de::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(Visitor)
    }
}
