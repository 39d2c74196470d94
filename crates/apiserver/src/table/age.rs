//! Ages as kubectl prints them: two units at most, and fewer the older it is.

use jiff::Timestamp;

/// How long before `now` something happened: `5s`, `2m3s`, `5h`, `3d`.
pub fn human_age(then: Timestamp, now: Timestamp) -> String {
    const YEAR: i64 = 365;
    let seconds = now.duration_since(then).as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    let two = |big: i64, unit: char, small: i64, rest: char| match small {
        0 => format!("{big}{unit}"),
        _ => format!("{big}{unit}{small}{rest}"),
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, 'm', seconds % 60, 's'),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, 'h', minutes % 60, 'm'),
        _ if hours < 48 => format!("{hours}h"),
        _ if days < 8 => two(days, 'd', hours % 24, 'h'),
        _ if days < 2 * YEAR => format!("{days}d"),
        _ if days < 8 * YEAR => two(days / YEAR, 'y', days % YEAR, 'd'),
        _ => format!("{}y", days / YEAR),
    }
}
