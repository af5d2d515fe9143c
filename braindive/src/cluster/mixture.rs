//! A mixture of von Mises-Fisher distributions and its fit by expectation and maximisation (Banerjee, Dhillon, Ghosh & Sra 2005, Journal of
//! Machine Learning Research 6: soft-moVMF and hard-moVMF).

use super::bessel::log_bessel_i;
use super::rows::UnitRows;
use super::{Assign, Settings};
use rayon::prelude::*;
use std::f64::consts::TAU;

/// The densities α_h · C_d(κ_h) · exp(κ_h μ_hᵀx) of k clusters.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixture {
    /// d
    pub width: usize,
    /// Mean directions μ [k, d], unit norm.
    pub centres: Vec<f64>,
    /// Concentrations κ [k].
    pub kappa: Vec<f64>,
    /// Shares α [k]; they sum to 1.
    pub alpha: Vec<f64>,
}

/// A mixture that was fitted, and what it says of the rows that it was fitted to.
#[derive(Debug, Clone, PartialEq)]
pub struct Fitted {
    pub mixture: Mixture,
    /// The most probable cluster of each row, from 0.
    pub labels: Vec<usize>,
    /// Mean per row: of the mixture's density if soft, of the assigned cluster's share of it if hard.
    pub log_likelihood: f64,
    pub iterations: usize,
}

/// What one step over all rows gives.
struct Step {
    log_likelihood: f64,
    labels: Vec<usize>,
    /// Σ p(h | x) [k]
    weights: Vec<f64>,
    /// Σ p(h | x) x [k, d]
    sums: Vec<f64>,
}

impl Mixture {
    /// The start of a fit: the rows `centres`, κ = d, equal shares.
    pub fn around(rows: &UnitRows, centres: &[usize]) -> Self {
        let (width, k) = (rows.width(), centres.len());
        Self {
            width,
            centres: centres.iter().flat_map(|&row| rows.row(row)).collect(),
            kappa: vec![width as f64; k],
            alpha: vec![1.0 / k as f64; k],
        }
    }

    /// Number of clusters.
    pub fn k(&self) -> usize {
        self.kappa.len()
    }

    /// Mean over rows of the mixture's log density.
    pub fn log_likelihood(&self, rows: &UnitRows) -> f64 {
        self.step(rows, Assign::Soft).log_likelihood
    }

    /// Cosines between centres [k, k].
    pub fn cosines(&self) -> Vec<Vec<f64>> {
        let centres = || self.centres.chunks_exact(self.width);
        centres().map(|a| centres().map(|b| a.iter().zip(b).map(|(a, b)| a * b).sum()).collect()).collect()
    }

    /// The same clusters in the order `order`.
    pub(super) fn reordered(&self, order: &[usize]) -> Self {
        Self {
            width: self.width,
            centres: order.iter().flat_map(|&h| &self.centres[h * self.width..][..self.width]).copied().collect(),
            kappa: order.iter().map(|&h| self.kappa[h]).collect(),
            alpha: order.iter().map(|&h| self.alpha[h]).collect(),
        }
    }

    /// Fits to `rows` from here; `None` if a cluster loses its rows or shrinks to a point.
    pub fn fit(mut self, rows: &UnitRows, settings: &Settings) -> Option<Fitted> {
        let mut iterations = 0;
        let mut last = f64::NAN;
        loop {
            let step = self.step(rows, settings.assign);
            let log_likelihood = step.log_likelihood;
            self.maximise(&step, rows.len())?;
            iterations += 1;
            let settled = (log_likelihood - last).abs() < settings.tolerance * last.abs();
            if settled || iterations >= settings.iterations {
                break;
            }
            last = log_likelihood;
        }
        let Step { labels, log_likelihood, .. } = self.step(rows, settings.assign);
        if (0..self.k()).any(|h| !labels.contains(&h)) {
            return None;
        }
        Some(Fitted { mixture: self, labels, log_likelihood, iterations })
    }

    /// log α_h C_d(κ_h), with C_d(κ) = κ^(d/2 − 1) / ((2π)^(d/2) I_(d/2 − 1)(κ)).
    fn offsets(&self) -> Vec<f64> {
        let half = self.width as f64 / 2.0;
        let log_c = |kappa: f64| (half - 1.0) * kappa.ln() - half * TAU.ln() - log_bessel_i(half - 1.0, kappa);
        self.kappa.iter().zip(&self.alpha).map(|(&kappa, alpha)| alpha.ln() + log_c(kappa)).collect()
    }

    fn step(&self, rows: &UnitRows, assign: Assign) -> Step {
        let (k, offsets) = (self.k(), self.offsets());
        let blocks: Vec<Step> = rows
            .blocks()
            .map(|block| {
                let mut posteriors = block.cosines(&self.centres);
                let mut log_likelihood = 0.0;
                let mut labels = Vec::with_capacity(posteriors.len() / k);
                let mut weights = vec![0.0; k];
                for row in posteriors.chunks_exact_mut(k) {
                    let (row_likelihood, label) = posterior(row, &self.kappa, &offsets, assign);
                    log_likelihood += row_likelihood;
                    labels.push(label);
                    weights.iter_mut().zip(row).for_each(|(weight, p)| *weight += *p);
                }
                Step { log_likelihood, labels, weights, sums: block.weighted_sums(&posteriors) }
            })
            .collect();
        let mut whole = Step {
            log_likelihood: 0.0,
            labels: Vec::with_capacity(rows.len()),
            weights: vec![0.0; k],
            sums: vec![0.0; k * self.width],
        };
        for block in blocks {
            whole.log_likelihood += block.log_likelihood / rows.len() as f64;
            whole.labels.extend(block.labels);
            whole.weights.iter_mut().zip(block.weights).for_each(|(sum, part)| *sum += part);
            whole.sums.iter_mut().zip(block.sums).for_each(|(sum, part)| *sum += part);
        }
        whole
    }

    /// μ = s/‖s‖, r̄ = ‖s‖/w, κ = (r̄d − r̄³)/(1 − r̄²), α = w/n (section 4, equation 4.4).
    fn maximise(&mut self, step: &Step, rows: usize) -> Option<()> {
        let d = self.width as f64;
        let sums = step.sums.chunks_exact(self.width);
        for (h, (centre, sum)) in self.centres.chunks_exact_mut(self.width).zip(sums).enumerate() {
            let weight = step.weights[h];
            let norm = sum.iter().map(|value| value * value).sum::<f64>().sqrt();
            let r = norm / weight;
            // Less than a row, or rows that are all one: the likelihood has no maximum there.
            if weight < 1.0 || norm == 0.0 || r > 1.0 - 1e-9 {
                return None;
            }
            centre.iter_mut().zip(sum).for_each(|(centre, value)| *centre = value / norm);
            self.kappa[h] = (r * d - r.powi(3)) / (1.0 - r * r);
            self.alpha[h] = weight / rows as f64;
        }
        Some(())
    }
}

/// Turns a row's cosines into its posteriors; returns its log-likelihood and most probable cluster.
fn posterior(row: &mut [f64], kappa: &[f64], offsets: &[f64], assign: Assign) -> (f64, usize) {
    let (mut label, mut highest) = (0, f64::NEG_INFINITY);
    for (h, value) in row.iter_mut().enumerate() {
        *value = offsets[h] + kappa[h] * *value;
        if *value > highest {
            (label, highest) = (h, *value);
        }
    }
    match assign {
        Assign::Hard => {
            row.fill(0.0);
            row[label] = 1.0;
            (highest, label)
        }
        Assign::Soft => {
            let mut sum = 0.0;
            for value in &mut *row {
                *value = (*value - highest).exp();
                sum += *value;
            }
            row.iter_mut().for_each(|value| *value /= sum);
            (highest + sum.ln(), label)
        }
    }
}
