//! Numbers as people read them, in pages and in tables.

use super::proportion::Proportion;

/// With a comma every three digits: `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Predicted activation with two decimals and a true minus sign; a dash where there is none.
pub fn activation(value: Option<f64>) -> String {
    match value {
        Some(value) if value.is_sign_negative() && value.abs() >= 0.005 => format!("−{:.2}", value.abs()),
        Some(value) => format!("{:.2}", value.abs()),
        None => "–".to_owned(),
    }
}

/// A figure of a folder: a whole number as it is, another with four digits that count.
pub fn figure(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return format!("{value}");
    }
    let before = value.abs().max(f64::MIN_POSITIVE).log10().floor().clamp(-12.0, 15.0) as i32;
    format!("{value:.*}", (3 - before).max(0) as usize)
}

/// A share in whole percent: `83 %`; a dash where there is none.
pub fn percent(proportion: Option<Proportion>) -> String {
    proportion.map_or("–".to_owned(), |p| format!("{:.0} %", p.share() * 100.0))
}

/// A share's 95 % interval in whole percent: `55–95`; empty where there is none.
pub fn interval(proportion: Option<Proportion>) -> String {
    proportion.map_or(String::new(), |p| {
        let (low, high) = p.interval();
        format!("{:.0}–{:.0}", low * 100.0, high * 100.0)
    })
}

/// Device time in hours, with as many decimals as it needs: `0.042`, `3.1`, `1,204`.
pub fn hours(seconds: f64) -> String {
    let hours = seconds / 3600.0;
    match hours {
        h if h >= 100.0 => thousands(h.round() as u64),
        h if h >= 1.0 => format!("{h:.1}"),
        h if h > 0.0 => format!("{h:.3}"),
        _ => "0".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped_by_three() {
        let told: Vec<_> = [0, 999, 1000, 90_000, 1_234_567].into_iter().map(thousands).collect();
        assert_eq!(told, ["0", "999", "1,000", "90,000", "1,234,567"]);
    }

    #[test]
    fn activations_that_round_to_zero_have_no_sign() {
        let told: Vec<_> = [Some(1.756), Some(-0.25), Some(-0.001), None].into_iter().map(activation).collect();
        assert_eq!(told, ["1.76", "−0.25", "0.00", "–"]);
    }

    #[test]
    fn figures_keep_four_digits_that_count() {
        let shown = [564.0, 0.848_706_3, 119.038_2, 0.160_931_68, 3e-4, -0.288_747, 12_345.678].map(figure);
        assert_eq!(shown, ["564", "0.8487", "119.0", "0.1609", "0.0003000", "-0.2887", "12346"]);
        assert_eq!(figure(f64::NAN), "NaN");
    }

    #[test]
    fn shares_and_hours_round_to_what_matters() {
        assert_eq!(percent(Proportion::new(10, 12)), "83 %");
        assert_eq!(interval(Proportion::new(0, 20)), "0–16");
        assert_eq!([hours(0.0), hours(150.0), hours(11_160.0), hours(4_334_400.0)], ["0", "0.042", "3.1", "1,204"]);
    }
}
