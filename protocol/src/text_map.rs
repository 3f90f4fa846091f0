//! A text-keyed map in deterministic CBOR order: by encoded key bytes, so shorter keys first (RFC 8949 §4.2.1).

use serde::{Deserialize, Serialize, de, ser::SerializeMap};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

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

impl Serialize for TextMap {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(Some(self.0.len()))?;
        for (k, v) in &self.0 {
            map.serialize_entry(&k.0, v)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for TextMap {
    fn deserialize<D: de::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> de::Visitor<'de> for V {
            type Value = TextMap;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of text to text")
            }
            fn visit_map<A: de::MapAccess<'de>>(self, mut access: A) -> Result<TextMap, A::Error> {
                let mut map = BTreeMap::new();
                while let Some((k, v)) = access.next_entry::<String, String>()? {
                    if map.insert(Key(k), v).is_some() {
                        return Err(de::Error::custom("a key stands twice"));
                    }
                }
                Ok(TextMap(map))
            }
        }
        d.deserialize_map(V)
    }
}
