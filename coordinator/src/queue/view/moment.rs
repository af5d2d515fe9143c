//! Times and durations as people read them. Times are milliseconds since 1970 (UTC), as in the database.

use crate::queue::clock::Clock;

/// Milliseconds since 1970 (UTC), by the machine's clock.
pub fn now() -> i64 {
    Clock::System.now()
}

/// For example `2026-11-23 14:47:03`, in UTC.
pub fn utc(at: i64) -> String {
    match jiff::Timestamp::from_millisecond(at) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => format!("{at} ms since 1970"),
    }
}

/// A duration in the two largest units that matter: `0.4 s`, `12 s`, `3 min 5 s`, `2 h 7 min`, `3 d 4 h`.
pub fn duration(milliseconds: i64) -> String {
    let seconds = milliseconds.max(0) / 1000;
    let pair = |large: i64, large_name: &str, small: i64, small_name: &str| {
        if small == 0 { format!("{large} {large_name}") } else { format!("{large} {large_name} {small} {small_name}") }
    };
    match seconds {
        0..10 => format!("{:.1} s", milliseconds.max(0) as f64 / 1000.0),
        10..60 => format!("{seconds} s"),
        60..3600 => pair(seconds / 60, "min", seconds % 60, "s"),
        3600..86_400 => pair(seconds / 3600, "h", seconds / 60 % 60, "min"),
        _ => pair(seconds / 86_400, "d", seconds / 3600 % 24, "h"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_the_calendar_has_them() {
        assert_eq!(utc(0), "1970-01-01 00:00:00");
        assert_eq!(utc(951_782_400_000), "2000-02-29 00:00:00");
        assert_eq!(utc(1_700_000_000_123), "2023-11-14 22:13:20");
        assert_eq!(utc(-1), "1969-12-31 23:59:59");
    }

    #[test]
    fn durations_use_the_two_largest_units() {
        assert_eq!(duration(-5), "0.0 s");
        assert_eq!(duration(1_340), "1.3 s");
        assert_eq!(duration(59_999), "59 s");
        assert_eq!(duration(185_000), "3 min 5 s");
        assert_eq!(duration(7_200_000), "2 h");
        assert_eq!(duration(273_600_000), "3 d 4 h");
    }
}
