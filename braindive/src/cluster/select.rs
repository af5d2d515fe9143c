//! The best of several starts, and the number of clusters that says most of rows it has not seen.

use super::mixture::{Fitted, Mixture};
use super::rows::UnitRows;
use super::{ClusterError, Settings};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Parts of the rows that are left out in turn.
const FOLDS: usize = 5;
/// The expansion of the Bessel function needs a large order.
const NARROWEST: usize = 8;

/// Clusters of rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Clustering {
    /// The largest cluster comes first, of equal ones that of the first row.
    pub fitted: Fitted,
    /// Mean log density per row of a fifth of the rows under a mixture fitted to the others, by number of clusters; `None` where the others
    /// did not hold so many.
    pub held_out: BTreeMap<usize, Option<f64>>,
}

/// Clusters rows as `settings` say. The same rows and settings give the same clusters on any number of threads. `progress`: fits that are
/// done and fits in all.
///
/// # Errors
/// There are fewer rows than clusters, they all point one way, a cluster is empty whatever the start, or `progress` says stop.
pub fn cluster(
    rows: &UnitRows,
    settings: &Settings,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Clustering, ClusterError> {
    settings.check()?;
    if rows.width() < NARROWEST {
        return Err(ClusterError::Narrow { found: rows.width(), expected: NARROWEST });
    }
    let most = settings.k.iter().copied().max().unwrap_or(0);
    if rows.len() < most {
        return Err(ClusterError::TooFewRows { rows: rows.len(), k: most });
    }
    if most > 1 && rows.cosines(&rows.row(0)).iter().all(|&cosine| cosine > 1.0 - 1e-9) {
        return Err(ClusterError::Identical { rows: rows.len() });
    }

    let folds = FOLDS.min(rows.len());
    let total = ((settings.k.len() * folds + 1) * settings.starts) as u64;
    let mut done = 0;
    let mut next = || {
        let told = progress(done, total);
        done += 1;
        if told.is_break() { Err(ClusterError::Stopped) } else { Ok(()) }
    };
    let parts = parts(rows.len(), folds, settings.seed);
    let mut held_out = BTreeMap::new();
    for &k in &settings.k {
        let mut sum = Some(0.0);
        for part in &parts {
            let others: Vec<usize> = (0..rows.len()).filter(|row| part.binary_search(row).is_err()).collect();
            let best = best(&rows.select(&others), k, settings, &mut next)?;
            let likelihood = best.map(|best| best.mixture.log_likelihood(&rows.select(part)));
            sum = sum.zip(likelihood).map(|(sum, likelihood)| sum + likelihood * part.len() as f64);
        }
        held_out.insert(k, sum.map(|sum| sum / rows.len() as f64));
    }
    let chosen = match settings.k[..] {
        [only] => only,
        // Of equally good numbers the smallest.
        _ => {
            held_out
                .iter()
                .filter_map(|(&k, likelihood)| Some((k, (*likelihood)?)))
                .reduce(|best, next| if next.1 > best.1 { next } else { best })
                .ok_or(ClusterError::Empty {
                    k: held_out.keys().next().copied().unwrap_or(0),
                    starts: settings.starts,
                })?
                .0
        }
    };
    let found =
        best(rows, chosen, settings, &mut next)?.ok_or(ClusterError::Empty { k: chosen, starts: settings.starts })?;
    Ok(Clustering { fitted: ordered(found), held_out })
}

/// The most likely of the fits from all starts, of equal ones the first; `None` if each lost a cluster.
fn best(
    rows: &UnitRows,
    k: usize,
    settings: &Settings,
    next: &mut impl FnMut() -> Result<(), ClusterError>,
) -> Result<Option<Fitted>, ClusterError> {
    let mut best: Option<Fitted> = None;
    for start in 0..settings.starts {
        next()?;
        if rows.len() < k {
            continue;
        }
        let Some(fitted) = Mixture::around(rows, &start_rows(rows, k, settings.seed, start)).fit(rows, settings) else {
            continue;
        };
        if best.as_ref().is_none_or(|best| fitted.log_likelihood > best.log_likelihood) {
            best = Some(fitted);
        }
    }
    Ok(best)
}

/// Rows to start from: one at random, each other with a probability that grows as its distance from those taken, 1 − cosine (Arthur &
/// Vassilvitskii 2007, k-means++, whose squared distance is twice this on the sphere).
fn start_rows(rows: &UnitRows, k: usize, seed: u64, start: usize) -> Vec<usize> {
    let mut random = Random(seed.wrapping_add((start as u64) << 32));
    let mut taken = vec![random.below(rows.len())];
    let mut distances = vec![f64::INFINITY; rows.len()];
    while taken.len() < k {
        let cosines = rows.cosines(&rows.row(taken[taken.len() - 1]));
        distances
            .iter_mut()
            .zip(cosines)
            .for_each(|(distance, cosine)| *distance = distance.min((1.0 - cosine).max(0.0)));
        let mut left = random.unit() * distances.iter().sum::<f64>();
        let chosen = distances.iter().position(|distance| {
            left -= distance;
            left < 0.0
        });
        taken.push(chosen.unwrap_or(rows.len() - 1));
    }
    taken
}

/// Rows dealt at random into `folds` parts, each ascending.
fn parts(rows: usize, folds: usize, seed: u64) -> Vec<Vec<usize>> {
    let mut random = Random(!seed);
    let mut order: Vec<usize> = (0..rows).collect();
    for last in (1..rows).rev() {
        order.swap(last, random.below(last + 1));
    }
    (0..folds)
        .map(|fold| {
            let mut part: Vec<usize> = order.iter().copied().skip(fold).step_by(folds).collect();
            part.sort_unstable();
            part
        })
        .collect()
}

fn ordered(fitted: Fitted) -> Fitted {
    let k = fitted.mixture.k();
    let mut sizes = vec![0usize; k];
    let mut firsts = vec![usize::MAX; k];
    for (row, &label) in fitted.labels.iter().enumerate() {
        sizes[label] += 1;
        firsts[label] = firsts[label].min(row);
    }
    let mut order: Vec<usize> = (0..k).collect();
    order.sort_by_key(|&h| (Reverse(sizes[h]), firsts[h]));
    let mut ranks = vec![0; k];
    order.iter().enumerate().for_each(|(rank, &h)| ranks[h] = rank);
    Fitted {
        mixture: fitted.mixture.reordered(&order),
        labels: fitted.labels.iter().map(|&label| ranks[label]).collect(),
        ..fitted
    }
}

/// SplitMix64 (Steele, Lea & Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 ≤ u < 1
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, end: usize) -> usize {
        (self.unit() * end as f64) as usize
    }
}
