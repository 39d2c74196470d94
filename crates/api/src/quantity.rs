//! Quantities such as `500m`, `2`, `256Mi`, `1G`, as Kubernetes writes them.

/// Why a quantity cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a quantity such as 500m, 2, 256Mi or 1Gi")]
pub struct BadQuantity;

/// Reads a quantity in thousandths of its unit, rounded up; `1500m` and `1.5` are 1500.
///
/// # Errors
/// [`BadQuantity`] when the text is none, is negative, or does not fit.
pub fn millis(text: &str) -> Result<u64, BadQuantity> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let scale: u128 = match suffix {
        "m" => 1,
        "" => 1_000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "Ki" => 1_000 << 10,
        "Mi" => 1_000 << 20,
        "Gi" => 1_000 << 30,
        "Ti" => 1_000 << 40,
        _ => return Err(BadQuantity),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || whole.len() > 20 || fraction.len() > 9 {
        return Err(BadQuantity);
    }
    let digits: u128 = format!("0{whole}{fraction}").parse().map_err(|_| BadQuantity)?;
    let divisor = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| BadQuantity)?);
    let scaled = digits.checked_mul(scale).ok_or(BadQuantity)?.div_ceil(divisor);
    u64::try_from(scaled).map_err(|_| BadQuantity)
}

/// Reads a quantity in whole units, rounded up; bytes, or a count.
///
/// # Errors
/// As [`millis`].
pub fn units(text: &str) -> Result<u64, BadQuantity> {
    millis(text).map(|millis| millis.div_ceil(1_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read() {
        for (text, expected) in
            [("500m", 500), ("2", 2_000), ("1.5", 1_500), ("0.1", 100), ("1k", 1_000_000), (".5", 500)]
        {
            assert_eq!(millis(text), Ok(expected), "{text}");
        }
        assert_eq!(units("256Mi"), Ok(256 << 20));
        assert_eq!(units("1Gi"), Ok(1 << 30));
        assert_eq!(units("100m"), Ok(1));
        for wrong in ["", "m", "-1", "1 Gi", "1Zi", "1.2.3", "1e3", "99999999999999999999Ti", "."] {
            assert_eq!(millis(wrong), Err(BadQuantity), "{wrong}");
        }
    }
}
