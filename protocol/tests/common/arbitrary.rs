//! Values of any wire type out of raw entropy: a serde deserializer that invents what it is asked for and notes the shapes.

use serde::de::value::{Error, StrDeserializer, U32Deserializer};
use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor};
use std::collections::BTreeMap;

/// What becomes of options, lists and maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// All there, at least one entry.
    Full,
    /// None there.
    Empty,
    /// As the entropy says.
    Any,
}

/// The fields of each struct (`Root`) and struct variant (`Verb::Stage`); the variants of each enum under its name.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Shapes {
    pub structs: BTreeMap<String, Vec<&'static str>>,
    pub enums: BTreeMap<String, Vec<&'static str>>,
}

/// Invents values.
#[derive(Debug)]
pub struct Source {
    entropy: Vec<u8>,
    at: usize,
    fill: Fill,
    pub shapes: Shapes,
}

impl Source {
    pub fn new(entropy: Vec<u8>, fill: Fill) -> Self {
        Self { entropy, at: 0, fill, shapes: Shapes::default() }
    }

    pub fn invent<T: DeserializeOwned>(&mut self) -> T {
        T::deserialize(self).unwrap()
    }

    /// The next byte; the entropy comes round again, changed each time.
    fn byte(&mut self) -> u8 {
        self.at += 1;
        let turn = u8::try_from(self.at / self.entropy.len().max(1) % 256).unwrap();
        self.entropy
            .get((self.at - 1) % self.entropy.len().max(1))
            .copied()
            .unwrap_or(0)
            .wrapping_add(turn.wrapping_mul(97))
    }

    fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n
    }

    fn count(&mut self) -> usize {
        match self.fill {
            Fill::Full => 1 + self.below(2),
            Fill::Empty => 0,
            Fill::Any => self.below(3),
        }
    }

    fn number(&mut self) -> u64 {
        let shift = u32::from(self.byte()) % 64;
        (1_u64 << shift).wrapping_add(u64::from(self.byte())).wrapping_sub(128 * u64::from(self.byte() & 1))
    }

    /// A text that is a name, a fleet id and a device id alike.
    fn text(&mut self) -> String {
        const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz234567";
        (0..32).map(|_| char::from(ALPHABET[self.below(32)])).collect()
    }
}

impl<'de> de::Deserializer<'de> for &mut Source {
    type Error = Error;

    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.below(6) {
            0 => self.deserialize_bool(visitor),
            1 => self.deserialize_u64(visitor),
            2 => {
                let n = -1 - i128::from(self.number());
                visitor.visit_i128(n)
            }
            3 => self.deserialize_byte_buf(visitor),
            4 if self.fill == Fill::Any => self.deserialize_seq(visitor),
            _ => self.deserialize_string(visitor),
        }
    }
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let value = self.byte() & 1 == 1;
        visitor.visit_bool(value)
    }
    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let value = self.number();
        visitor.visit_u64(value)
    }
    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let value = self.number().cast_signed();
        visitor.visit_i64(value)
    }
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let text = self.text();
        visitor.visit_string(text)
    }
    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let bytes = (0..32).map(|_| self.byte()).collect();
        visitor.visit_byte_buf(bytes)
    }
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.count() > 0 { visitor.visit_some(self) } else { visitor.visit_none() }
    }
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let left = self.count();
        visitor.visit_seq(Items { source: self, left })
    }
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let left = self.count();
        visitor.visit_map(Items { source: self, left })
    }
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.shapes.structs.insert(name.into(), fields.to_vec());
        visitor.visit_map(Fields { source: self, fields: fields.iter() })
    }
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.shapes.enums.insert(name.into(), variants.to_vec());
        let index = self.below(variants.len());
        visitor.visit_enum(Variant { source: self, index, path: format!("{name}::{}", variants[index]) })
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u16 u32 u128 f32 f64 char str bytes unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

struct Items<'a> {
    source: &'a mut Source,
    left: usize,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = Error;
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(&mut *self.source).map(Some)
    }
}

impl<'de> de::MapAccess<'de> for Items<'_> {
    type Error = Error;
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        de::SeqAccess::next_element_seed(self, seed)
    }
    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(&mut *self.source)
    }
}

struct Fields<'a> {
    source: &'a mut Source,
    fields: std::slice::Iter<'static, &'static str>,
}

impl<'de> de::MapAccess<'de> for Fields<'_> {
    type Error = Error;
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some(field) = self.fields.next() else { return Ok(None) };
        let name: StrDeserializer<'_, Error> = field.into_deserializer();
        seed.deserialize(name).map(Some)
    }
    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(&mut *self.source)
    }
}

struct Variant<'a> {
    source: &'a mut Source,
    index: usize,
    path: String,
}

impl<'de> de::EnumAccess<'de> for Variant<'_> {
    type Error = Error;
    type Variant = Self;
    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self), Error> {
        let index: U32Deserializer<Error> = u32::try_from(self.index).unwrap().into_deserializer();
        Ok((seed.deserialize(index)?, self))
    }
}

impl<'de> de::VariantAccess<'de> for Variant<'_> {
    type Error = Error;
    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, Error> {
        panic!("{}: newtype variants have no place on the wire", self.path)
    }
    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Error> {
        panic!("{}: tuple variants have no place on the wire", self.path)
    }
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.source.shapes.structs.insert(self.path, fields.to_vec());
        visitor.visit_map(Fields { source: self.source, fields: fields.iter() })
    }
}
