//! A text-keyed map in deterministic CBOR order: by encoded key bytes, so shorter keys first (RFC 8949 §4.2.1).

use crate::ids::Bytes;
use serde::{Deserialize, Serialize, de, ser::SerializeMap};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

/// A key that sorts the way its CBOR encoding does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key(String);

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.len().cmp(&other.0.len()).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Labels, annotations and the like: text to text, no duplicates.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct TextMap(BTreeMap<Key, String>);

impl TextMap {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(&Key(key.to_owned())).map(String::as_str)
    }
    /// Sets `key`; returns what was there.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<String>) -> Option<String> {
        self.0.insert(Key(key.into()), value.into())
    }
    /// All entries, shorter keys first.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.0.as_str(), v.as_str()))
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for TextMap {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(iter: T) -> Self {
        Self(iter.into_iter().map(|(k, v)| (Key(k.into()), v.into())).collect())
    }
}

/// Text to bytes in the same order: the entries of a config, or of a secret once it is open.
#[derive(Clone, PartialEq, Eq, Default, Hash)]
pub struct ByteMap(BTreeMap<Key, Bytes>);

impl fmt::Debug for ByteMap {
    /// Without values, which may be a secret's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(k, v)| (&k.0, format!("{} bytes", v.0.len())))).finish()
    }
}

impl ByteMap {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.0.get(&Key(key.to_owned())).map(|v| v.0.as_slice())
    }
    /// All entries, shorter keys first.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(k, v)| (k.0.as_str(), v.0.as_slice()))
    }
    /// Its keys, shorter ones first.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(|k| k.0.as_str())
    }
}

impl<K: Into<String>, V: Into<Vec<u8>>> FromIterator<(K, V)> for ByteMap {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(iter: T) -> Self {
        Self(iter.into_iter().map(|(k, v)| (Key(k.into()), Bytes(v.into()))).collect())
    }
}

fn put<S: serde::Serializer, V: Serialize>(all: &BTreeMap<Key, V>, s: S) -> Result<S::Ok, S::Error> {
    let mut map = s.serialize_map(Some(all.len()))?;
    for (k, v) in all {
        map.serialize_entry(&k.0, v)?;
    }
    map.end()
}

struct Take<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> de::Visitor<'de> for Take<V> {
    type Value = BTreeMap<Key, V>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map with text keys")
    }
    fn visit_map<A: de::MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut map = BTreeMap::new();
        while let Some((k, v)) = access.next_entry::<String, V>()? {
            if map.insert(Key(k), v).is_some() {
                return Err(de::Error::custom("a key stands twice"));
            }
        }
        Ok(map)
    }
}

impl Serialize for TextMap {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        put(&self.0, s)
    }
}

impl<'de> Deserialize<'de> for TextMap {
    fn deserialize<D: de::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_map(Take(PhantomData)).map(Self)
    }
}

impl Serialize for ByteMap {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        put(&self.0, s)
    }
}

impl<'de> Deserialize<'de> for ByteMap {
    fn deserialize<D: de::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_map(Take(PhantomData)).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_may_be_a_secret_is_not_printed() {
        let map: ByteMap = [("token", "hush")].into_iter().collect();
        assert_eq!(format!("{map:?}"), r#"{"token": "4 bytes"}"#);
    }
}
