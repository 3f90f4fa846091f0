//! The arguments that the corpus is called with, and results in a form that can be compared.

use std::fmt;
use wasmedge_sdk::ValType;
use wasmedge_sys::WasmValue;

const I32: [i32; 10] = [0, 1, 2, -1, i32::MIN, i32::MAX, 31, 0x1234_5678, 65_533, 65_536];
const I64: [i64; 9] = [0, 1, -1, i64::MIN, i64::MAX, 63, 0x0102_0304_8586_8788, -0x8000_0000, 0x1_0000_0000];
const F32: [f32; 11] =
    [0.0, -0.0, 1.0, -1.5, 2.5, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-45, 2_147_483_648.0];
const F64: [f64; 11] = [
    0.0,
    -0.0,
    0.5,
    -1.5,
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::MAX,
    5e-324,
    4_294_967_295.5,
    -9_223_372_036_854_775_808.0,
];

/// Telling values of a type.
fn values(ty: ValType) -> Vec<WasmValue> {
    match ty {
        ValType::I32 => I32.map(WasmValue::from_i32).to_vec(),
        ValType::I64 => I64.map(WasmValue::from_i64).to_vec(),
        ValType::F32 => F32.map(WasmValue::from_f32).to_vec(),
        ValType::F64 => F64.map(WasmValue::from_f64).to_vec(),
        // The corpus has no such parameter.
        _ => Vec::new(),
    }
}

/// All combinations of telling values for parameters of these types.
pub(super) fn combinations(types: &[ValType]) -> Vec<Vec<WasmValue>> {
    types.iter().fold(vec![Vec::new()], |all, ty| {
        let next = values(*ty);
        all.iter().flat_map(|some| next.iter().map(|v| [some.as_slice(), &[*v]].concat())).collect()
    })
}

/// Arguments for people.
pub(super) fn shown(values: &[WasmValue]) -> String {
    values.iter().map(|v| Bits::of(v).to_string()).collect::<Vec<_>>().join(", ")
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Returned(Vec<Bits>),
    Trap(String),
    Absent,
}

impl Outcome {
    pub(super) fn of(values: &[WasmValue]) -> Self {
        Self::Returned(values.iter().map(Bits::of).collect())
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Returned(all) => {
                f.write_str("gives ")?;
                all.iter().try_for_each(|b| write!(f, "{b} "))
            }
            Self::Trap(words) => write!(f, "traps ({words})"),
            Self::Absent => f.write_str("is not there"),
        }
    }
}

/// A value bit by bit, any NaN being the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bits {
    I32(i32),
    I64(i64),
    F32(u32),
    F64(u64),
    V128(i128),
    Other,
}

impl Bits {
    fn of(value: &WasmValue) -> Self {
        match value.ty() {
            ValType::I32 => Self::I32(value.to_i32()),
            ValType::I64 => Self::I64(value.to_i64()),
            ValType::F32 => {
                let v = value.to_f32();
                Self::F32(if v.is_nan() { f32::NAN.to_bits() } else { v.to_bits() })
            }
            ValType::F64 => {
                let v = value.to_f64();
                Self::F64(if v.is_nan() { f64::NAN.to_bits() } else { v.to_bits() })
            }
            ValType::V128 => Self::V128(value.to_v128()),
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::I32(v) => write!(f, "i32 {v}"),
            Self::I64(v) => write!(f, "i64 {v}"),
            Self::F32(v) => write!(f, "f32 {}", f32::from_bits(*v)),
            Self::F64(v) => write!(f, "f64 {}", f64::from_bits(*v)),
            Self::V128(v) => write!(f, "v128 {v:032x}"),
            Self::Other => f.write_str("a reference"),
        }
    }
}
