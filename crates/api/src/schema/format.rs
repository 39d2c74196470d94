//! Formats of strings and integers.

use serde_json::Value;

/// A format that is checked. Others (`uri`, `password`, `double`) tell clients something and are not checked, as
/// upstream has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    DateTime,
    Quantity,
    Byte,
    /// An integer within these bounds.
    Integer {
        name: &'static str,
        min: i64,
        max: u64,
    },
}

/// The lower bound of the unsigned ones is a `minimum`: its error text says more.
const INTEGERS: [(&str, i64, u64); 9] = [
    ("int8", i8::MIN as i64, i8::MAX as u64),
    ("int16", i16::MIN as i64, i16::MAX as u64),
    ("int32", i32::MIN as i64, i32::MAX as u64),
    ("int64", i64::MIN, i64::MAX as u64),
    ("uint8", i64::MIN, u8::MAX as u64),
    ("uint16", i64::MIN, u16::MAX as u64),
    ("uint32", i64::MIN, u32::MAX as u64),
    ("uint64", i64::MIN, u64::MAX),
    ("uint", i64::MIN, u64::MAX),
];

impl Format {
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "date-time" => Some(Self::DateTime),
            "quantity" => Some(Self::Quantity),
            "byte" => Some(Self::Byte),
            _ => INTEGERS.iter().find(|(known, ..)| *known == name).map(|&(name, min, max)| Self::Integer {
                name,
                min,
                max,
            }),
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::DateTime => "date-time",
            Self::Quantity => "quantity",
            Self::Byte => "byte",
            Self::Integer { name, .. } => name,
        }
    }

    /// Whether a value of the right type has the format; one of a type that the format is not about has it.
    pub(super) fn fits(self, value: &Value) -> bool {
        match (self, value) {
            (Self::DateTime, Value::String(text)) => date_time(text),
            (Self::Quantity, Value::String(text)) => quantity(text),
            (Self::Byte, Value::String(text)) => base64(text),
            (Self::Integer { min, max, .. }, Value::Number(number)) => match (number.as_i64(), number.as_u64()) {
                (_, Some(number)) => number <= max,
                (Some(number), None) => number >= min,
                (None, None) => true,
            },
            _ => true,
        }
    }
}

/// RFC 3339 with date, `T`, time and zone.
fn date_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    let zoned = text.ends_with('Z') || text.len() > 6 && matches!(bytes[text.len() - 6], b'+' | b'-');
    bytes.len() >= 20 && bytes[10] == b'T' && zoned && text.parse::<jiff::Timestamp>().is_ok()
}

/// Whether a text is a Kubernetes quantity: a decimal number with an SI suffix, a binary suffix or an exponent.
pub fn quantity(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let digits = number.bytes().filter(u8::is_ascii_digit).count();
    if digits == 0 || digits > 40 || number.len() - digits > 1 {
        return false;
    }
    match suffix {
        "" | "n" | "u" | "m" | "k" | "M" | "G" | "T" | "P" | "E" | "Ki" | "Mi" | "Gi" | "Ti" | "Pi" | "Ei" => true,
        _ => suffix.strip_prefix(['e', 'E']).is_some_and(|exponent| exponent.parse::<i8>().is_ok()),
    }
}

/// Standard base64 with padding.
fn base64(text: &str) -> bool {
    let bytes = text.as_bytes();
    let body = text.trim_end_matches('=');
    bytes.len().is_multiple_of(4)
        && bytes.len() - body.len() <= 2
        && body.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
}
