//! The layout's atoms: little-endian integers, counted bytes, texts and tables, and nothing else.
//!
//! A count is checked against what is left before anything is read, so that no claim costs memory.

use crate::Error;

/// Collects a layout's bytes.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Appends raw bytes.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
    /// Appends bytes behind their count; more than `u32` can count are cut by the size cap of whoever sends.
    pub fn counted(&mut self, bytes: &[u8]) {
        let n = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.raw(&n.to_le_bytes());
        self.raw(bytes);
    }
    /// The bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Reads a layout's bytes from the front.
#[derive(Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads from `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.0.len()
    }
    /// Takes exactly `n` bytes.
    pub fn raw(&mut self, n: usize) -> Result<&'a [u8], Error> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(Error::Truncated)?;
        self.0 = tail;
        Ok(head)
    }
    /// Takes `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(Error::Truncated)?;
        self.0 = tail;
        Ok(*head)
    }
    /// Takes counted bytes.
    pub fn counted(&mut self) -> Result<&'a [u8], Error> {
        let n = u32::take(self)?;
        self.raw(usize::try_from(n).unwrap_or(usize::MAX))
    }
    /// Ends the reading: nothing may be left.
    pub fn end(self) -> Result<(), Error> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::Leftover(self.0.len())) }
    }
}

/// Something with a fixed layout.
pub trait Field: Sized {
    /// Appends the layout.
    fn put(&self, w: &mut Writer);
    /// Reads the layout.
    fn take(r: &mut Reader<'_>) -> Result<Self, Error>;
}

/// The layout's bytes.
pub fn encode<T: Field>(value: &T) -> Vec<u8> {
    let mut w = Writer::default();
    value.put(&mut w);
    w.into_bytes()
}

/// Reads exactly one value; leftovers are refused.
pub fn decode<T: Field>(bytes: &[u8]) -> Result<T, Error> {
    let mut r = Reader::new(bytes);
    let value = T::take(&mut r)?;
    r.end()?;
    Ok(value)
}

macro_rules! integer {
    ($($t:ty),*) => {$(
        impl Field for $t {
            fn put(&self, w: &mut Writer) {
                w.raw(&self.to_le_bytes());
            }
            fn take(r: &mut Reader<'_>) -> Result<Self, Error> {
                Ok(<$t>::from_le_bytes(r.array()?))
            }
        }
    )*};
}
integer!(u8, u16, u32, u64, i32, i64);

impl Field for bool {
    fn put(&self, w: &mut Writer) {
        u8::from(*self).put(w);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, Error> {
        match u8::take(r)? {
            0 => Ok(false),
            1 => Ok(true),
            n => Err(Error::Value { what: "boolean", found: n.into() }),
        }
    }
}

impl Field for String {
    fn put(&self, w: &mut Writer) {
        w.counted(self.as_bytes());
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, Error> {
        let text = std::str::from_utf8(r.counted()?).map_err(|_| Error::Text)?;
        // A NUL would cut a path or an argument short on its way into the kernel.
        if text.contains('\0') { Err(Error::Text) } else { Ok(text.to_owned()) }
    }
}

impl<T: Field> Field for Option<T> {
    fn put(&self, w: &mut Writer) {
        self.is_some().put(w);
        if let Some(v) = self {
            v.put(w);
        }
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, Error> {
        if bool::take(r)? { T::take(r).map(Some) } else { Ok(None) }
    }
}

/// Tables; no layout is empty, so a count above the bytes left is a lie.
impl<T: Field> Field for Vec<T> {
    fn put(&self, w: &mut Writer) {
        u32::try_from(self.len()).unwrap_or(u32::MAX).put(w);
        for v in self {
            v.put(w);
        }
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, Error> {
        let n = usize::try_from(u32::take(r)?).unwrap_or(usize::MAX);
        if n > r.left() {
            return Err(Error::Truncated);
        }
        // Grown as entries prove to be there: the claimed count never reserves memory by itself.
        let mut out = Self::with_capacity(n.min(64));
        for _ in 0..n {
            out.push(T::take(r)?);
        }
        Ok(out)
    }
}

/// Declares structs whose layout is their fields in order.
macro_rules! layout {
    ($($(#[$meta:meta])* pub struct $name:ident { $($(#[$fmeta:meta])* pub $field:ident: $ty:ty,)* })*) => {$(
        $(#[$meta])*
        pub struct $name { $($(#[$fmeta])* pub $field: $ty,)* }
        impl $crate::Field for $name {
            fn put(&self, w: &mut $crate::Writer) { $($crate::Field::put(&self.$field, w);)* }
            fn take(r: &mut $crate::Reader<'_>) -> Result<Self, $crate::Error> {
                $(let $field = <$ty as $crate::Field>::take(r)?;)*
                Ok(Self { $($field),* })
            }
        }
    )*};
}

/// Declares enums: one tag byte, then the variant's fields in order.
macro_rules! tagged {
    ($(#[$meta:meta])* pub enum $name:ident: $what:literal {
        $($(#[$vmeta:meta])* $variant:ident = $tag:literal $({ $($(#[$fmeta:meta])* $field:ident: $ty:ty,)* })?,)*
    }) => {
        $(#[$meta])*
        pub enum $name { $($(#[$vmeta])* $variant $({ $($(#[$fmeta])* $field: $ty,)* })?,)* }
        impl $crate::Field for $name {
            fn put(&self, w: &mut $crate::Writer) {
                match self { $(Self::$variant $({ $($field),* })? => {
                    $crate::Field::put(&($tag as u8), w);
                    $($($crate::Field::put($field, w);)*)?
                })* }
            }
            fn take(r: &mut $crate::Reader<'_>) -> Result<Self, $crate::Error> {
                match <u8 as $crate::Field>::take(r)? {
                    $($tag => {
                        $($(let $field = <$ty as $crate::Field>::take(r)?;)*)?
                        Ok(Self::$variant $({ $($field),* })?)
                    })*
                    n => Err($crate::Error::Value { what: $what, found: n.into() }),
                }
            }
        }
    };
}

pub(crate) use {layout, tagged};
