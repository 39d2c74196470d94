//! Times, ages and spans, for people.

use std::time::Duration;

use mainstay_runtime::clock::Timestamp;

/// How long ago, in the two largest units, as kubectl shows ages.
pub(crate) fn age(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(then.as_second()).max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => with_rest(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => with_rest(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => with_rest(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        _ => with_rest(days / 365, "y", days % 365, "d"),
    }
}

fn with_rest(large: i64, unit: &str, small: i64, small_unit: &str) -> String {
    if small == 0 { format!("{large}{unit}") } else { format!("{large}{unit}{small}{small_unit}") }
}

/// The time of day here, to the millisecond; as it was given when it cannot be read.
pub(crate) fn time_of_day(time: &str) -> String {
    let Ok(time) = time.parse::<Timestamp>() else { return super::plain(time) };
    time.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M:%S%.3f").to_string()
}

/// Reads a span such as `90s`, `1h30m` or `2d`; a bare number is seconds.
pub(crate) fn span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a span such as 90s, 5m or 1h30m");
    let span = mainstay_api::span::Span::parse(text).ok_or_else(wrong)?;
    Ok(span.limit().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        let then: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (660, "11m"),
            (10_800, "3h"),
            (10_860, "3h1m"),
            (90_000, "25h"),
            (176_400, "2d1h"),
            (864_000, "10d"),
            (63_072_000 + 86_400, "2y1d"),
        ] {
            assert_eq!(age(then, then + Duration::from_secs(seconds)), text);
        }
        assert_eq!(age(then, then - Duration::from_secs(5)), "0s");
    }

    #[test]
    fn spans_are_read() {
        assert_eq!(span("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(span("1h30m"), Ok(Duration::from_mins(90)));
        assert!(span("soon").is_err());
    }
}
