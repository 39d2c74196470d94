//! What a plain YAML scalar means: the reading of kubectl (YAML 1.1 as go-yaml has it), so that a manifest means the
//! same to both.

use serde_json::{Number, Value};

/// The value of a plain scalar.
pub(crate) fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return Value::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return Value::from(text);
    }
    let digits: String = text.chars().filter(|c| *c != '_').collect();
    integer(&digits).or_else(|| float(&digits)).map_or_else(|| Value::from(text), Value::Number)
}

/// Decimal, `0x`, `0o`, `0b`, and octal with a leading zero.
fn integer(text: &str) -> Option<Number> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = if let Some(rest) = lower.strip_prefix("0x") {
        (16, rest)
    } else if let Some(rest) = lower.strip_prefix("0o") {
        (8, rest)
    } else if let Some(rest) = lower.strip_prefix("0b") {
        (2, rest)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, lower.get(1..).unwrap_or_default())
    } else {
        (10, lower.as_str())
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    let size = u64::from_str_radix(digits, radix).ok()?;
    if negative { 0_i64.checked_sub_unsigned(size).map(Number::from) } else { Some(Number::from(size)) }
}

/// `1.5`, `.5`, `1e3`. A whole number comes out as an integer, as it does from kubectl.
fn float(text: &str) -> Option<Number> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).map_or((unsigned, None), |(m, e)| (m, Some(e)));
    let (whole, part) = mantissa.split_once('.').map_or((mantissa, None), |(whole, part)| (whole, Some(part)));
    let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    let written = !whole.is_empty() || part.is_some_and(|part| !part.is_empty());
    let power = exponent.map(|text| text.strip_prefix(['+', '-']).unwrap_or(text));
    if !written
        || !digits(whole)
        || !part.is_none_or(digits)
        || !power.is_none_or(|text| !text.is_empty() && digits(text))
    {
        return None;
    }
    let number: f64 = text.parse().ok()?;
    #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and small enough")]
    if number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0 {
        return Some(Number::from(number as i64));
    }
    Number::from_f64(number)
}

/// Whether a string may be written without quotes: it then means itself to readers of YAML 1.1 and of 1.2.
pub(crate) fn is_plain_string(text: &str) -> bool {
    let safe = |c: char| {
        c.is_alphanumeric()
            || matches!(c, '_' | '-' | '.' | '/' | ':' | '@' | '+' | '=' | ' ' | '(' | ')' | ';' | '$' | '<' | '>')
    };
    let starts = text.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '/' | '$'));
    let ends = !text.ends_with([' ', ':']);
    let number_like = text.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && text.chars().all(|c| c.is_ascii_digit() || "+-.:eExXoObB_TtZz ".contains(c));
    starts
        && ends
        && !number_like
        && text.chars().all(safe)
        && !text.contains(": ")
        && text != "..."
        && resolve(text).is_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Each pair was taken from kubectl 1.32.
    #[test]
    fn scalars_mean_what_they_mean_to_kubectl() {
        for (text, value) in [
            ("on", json!(true)),
            ("yes", json!(true)),
            ("y", json!(true)),
            ("n", json!(false)),
            ("Yes", json!(true)),
            ("yEs", json!("yEs")),
            ("off", json!(false)),
            ("No", json!(false)),
            ("TRUE", json!(true)),
            ("~", json!(null)),
            ("Null", json!(null)),
            ("0777", json!(511)),
            ("0o777", json!(511)),
            ("0x1F", json!(31)),
            ("0b11", json!(3)),
            ("1_000", json!(1000)),
            ("-0b11", json!(-3)),
            ("+12", json!(12)),
            ("1e3", json!(1000)),
            ("1.5", json!(1.5)),
            (".5", json!(0.5)),
            ("1.", json!(1)),
            ("1:30", json!("1:30")),
            ("2001-12-14", json!("2001-12-14")),
            ("=", json!("=")),
            ("089", json!(89)),
            ("0x", json!("0x")),
            ("1e400", json!("1e400")),
            ("-0", json!(0)),
            ("0.0", json!(0)),
            ("1e-2", json!(0.01)),
            ("-1.5E+3", json!(-1500)),
            ("0x1p4", json!("0x1p4")),
            ("infinity", json!("infinity")),
            ("nan", json!("nan")),
            ("1_0.5", json!(10.5)),
            ("1e", json!("1e")),
            ("018.5", json!(18.5)),
            ("-", json!("-")),
            ("1Gi", json!("1Gi")),
            ("500m", json!("500m")),
            ("+", json!("+")),
            (".", json!(".")),
        ] {
            assert_eq!(resolve(text), value, "{text}");
        }
        assert_eq!(resolve("18446744073709551615"), json!(u64::MAX));
    }
}
