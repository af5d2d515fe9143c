//! Figures, each beside its target.

use serde::Serialize;

/// What was measured, and what it should be.
#[derive(Debug, Serialize)]
pub struct Figure {
    pub what: String,
    pub value: f64,
    pub unit: &'static str,
    /// In words, for example `< 15`; `None` where there is no target.
    pub target: Option<String>,
    pub met: Option<bool>,
}

impl Figure {
    pub fn plain(what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { what: what.into(), value, unit, target: None, met: None }
    }

    pub fn below(what: impl Into<String>, value: f64, unit: &'static str, bound: f64) -> Self {
        Self { target: Some(format!("< {bound}")), met: Some(value < bound), ..Self::plain(what, value, unit) }
    }

    pub fn above(what: impl Into<String>, value: f64, unit: &'static str, bound: f64) -> Self {
        Self { target: Some(format!("> {bound}")), met: Some(value > bound), ..Self::plain(what, value, unit) }
    }
}

/// Sorts; 0 of nothing.
pub fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}

/// The smallest value that `share` of them do not exceed; sorts; 0 of nothing.
pub fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (share * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}
