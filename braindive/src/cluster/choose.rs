//! Which clusters a region has: the best of several starts, and of several k the one that says most of voxels it has not seen.

use super::mixture::dot;
use super::{Assignment, ClusterError, Directions, Fitted, Mixture, Settings};
use std::ops::ControlFlow;
use subject::random::Random;

/// Keys of the streams of random numbers.
const STARTS: u64 = 1;
const FOLDS: u64 = 2;

/// The clusters of a region. Their order does not depend on the start: the largest first, equally large ones by their first voxel.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    pub fitted: Fitted,
    /// Every k that was asked for and its held-out log-likelihood per voxel, if there were several.
    pub held_out: Vec<(usize, f64)>,
}

/// Looks for the clusters of `rows`. `progress` hears of every start and may break.
///
/// # Errors
/// There are fewer voxels than clusters, no start ends in so many clusters, or `progress` breaks.
pub fn choose(
    rows: &Directions,
    settings: &Settings,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Choice, ClusterError> {
    settings.check()?;
    let mut ks = settings.k.clone();
    ks.sort_unstable();
    ks.dedup();
    let folds = if ks.len() > 1 { settings.folds } else { 0 };
    let total = (settings.starts * (ks.len() * folds + 1)) as u64;
    let mut done = 0;
    let mut tell = || {
        done += 1;
        match progress(done, total) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(ClusterError::Stopped),
        }
    };
    let mut held_out = Vec::new();
    if folds > 0 {
        let parts = deal(rows.rows(), folds, settings.seed);
        for &k in &ks {
            held_out.push((k, likelihood_held_out(rows, k, &parts, settings, &mut tell)?));
        }
    }
    let best = held_out.iter().copied().reduce(|best, other| if other.1 > best.1 { other } else { best });
    let k = best.map_or(ks[0], |(k, _)| k);
    let fitted = best_of_starts(rows, k, settings, &mut tell)?;
    Ok(Choice { fitted: in_order(fitted), held_out })
}

/// Mean over all voxels of the log-likelihood under the mixture that was fitted without them.
fn likelihood_held_out(
    rows: &Directions,
    k: usize,
    parts: &[Vec<usize>],
    settings: &Settings,
    tell: &mut dyn FnMut() -> Result<(), ClusterError>,
) -> Result<f64, ClusterError> {
    let mut sum = 0.0;
    for held_out in parts {
        let mut kept: Vec<usize> = parts.iter().filter(|part| *part != held_out).flatten().copied().collect();
        kept.sort_unstable();
        let fitted = best_of_starts(&rows.select(&kept), k, settings, tell)?;
        sum += fitted.mixture.log_likelihood(&rows.select(held_out)) * held_out.len() as f64;
    }
    Ok(sum / rows.rows() as f64)
}

/// The start that ends with the highest likelihood; of equal ones the first.
fn best_of_starts(
    rows: &Directions,
    k: usize,
    settings: &Settings,
    tell: &mut dyn FnMut() -> Result<(), ClusterError>,
) -> Result<Fitted, ClusterError> {
    if rows.rows() < k {
        return Err(ClusterError::TooFew { rows: rows.rows(), k });
    }
    let mut best: Option<(f64, Fitted)> = None;
    for start in 0..settings.starts {
        let mut random = Random::new(settings.seed, &[STARTS, k as u64, start as u64]);
        let means = spread(rows, k, &mut random);
        match Mixture::around(means).fit(rows, settings.assign) {
            Ok(fitted) => {
                let value = ended_at(&fitted, rows, settings.assign);
                // Two ways to one optimum differ by rounding: the first of them counts.
                if best.as_ref().is_none_or(|(best, _)| value > best + 1e-9 * best.abs()) {
                    best = Some((value, fitted));
                }
            }
            Err(ClusterError::Collapsed { .. }) => {}
            Err(error) => return Err(error),
        }
        tell()?;
    }
    let collapsed = || ClusterError::Collapsed { rows: rows.rows(), k, starts: settings.starts };
    best.map(|(_, fitted)| fitted).ok_or_else(collapsed)
}

/// What starts are compared by: the quantity that their EM climbs.
fn ended_at(fitted: &Fitted, rows: &Directions, assign: Assignment) -> f64 {
    match assign {
        Assignment::Soft => fitted.mixture.log_likelihood(rows),
        Assignment::Hard => fitted.log_likelihood.last().copied().unwrap_or(f64::NEG_INFINITY),
    }
}

/// k rows that point apart: each next one is drawn with a probability that grows with its distance 1 − cos from the nearest so far
/// (k-means++ of Arthur & Vassilvitskii 2007, on the sphere).
fn spread(rows: &Directions, k: usize, random: &mut Random) -> Vec<Vec<f64>> {
    let mut means = vec![rows.row(random.below(rows.rows())).to_vec()];
    let mut distance = vec![f64::INFINITY; rows.rows()];
    while means.len() < k {
        let last = &means[means.len() - 1];
        for (row, distance) in distance.iter_mut().enumerate() {
            *distance = distance.min((1.0 - dot(rows.row(row), last)).max(0.0));
        }
        let mut left = random.uniform(0.0, distance.iter().sum());
        let drawn = distance.iter().position(|&distance| {
            left -= distance;
            left < 0.0
        });
        // All rows lie on the means: any will do.
        means.push(rows.row(drawn.unwrap_or(means.len() % rows.rows())).to_vec());
    }
    means
}

/// Deals row numbers into parts of equal size, give or take one.
fn deal(rows: usize, parts: usize, seed: u64) -> Vec<Vec<usize>> {
    let mut shuffled: Vec<usize> = (0..rows).collect();
    Random::new(seed, &[FOLDS]).shuffle(&mut shuffled);
    let mut dealt = vec![Vec::new(); parts.min(rows)];
    let count = dealt.len();
    shuffled.into_iter().enumerate().for_each(|(place, row)| dealt[place % count].push(row));
    dealt.iter_mut().for_each(|part| part.sort_unstable());
    dealt
}

/// The largest cluster first, equally large ones by their first row; a component that is no row's likeliest comes last.
fn in_order(fitted: Fitted) -> Fitted {
    let k = fitted.mixture.means.len();
    let mut size = vec![0; k];
    fitted.labels.iter().for_each(|&label| size[label] += 1);
    let first = |component| fitted.labels.iter().position(|&label| label == component).unwrap_or(usize::MAX);
    let mut order: Vec<usize> = (0..k).collect();
    order.sort_by_key(|&component| (std::cmp::Reverse(size[component]), first(component)));
    let mut place = vec![0; k];
    order.iter().enumerate().for_each(|(new, &old)| place[old] = new);
    Fitted {
        mixture: fitted.mixture.reordered(&order),
        labels: fitted.labels.iter().map(|&label| place[label]).collect(),
        log_likelihood: fitted.log_likelihood,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `sizes[c]` rows around the c-th of some far-apart directions, shuffled; with the planted labels.
    fn planted(sizes: &[usize], noise: f64, seed: u64) -> (Directions, Vec<usize>) {
        const D: usize = 24;
        let mut random = Random::new(seed, &[0]);
        let centres: Vec<Vec<f64>> = sizes.iter().map(|_| (0..D).map(|_| random.normal()).collect()).collect();
        let mut labels: Vec<usize> = sizes.iter().enumerate().flat_map(|(c, &size)| vec![c; size]).collect();
        random.shuffle(&mut labels);
        let rows: Vec<f32> = labels
            .iter()
            .flat_map(|&label| centres[label].iter().map(|x| (x + noise * random.normal()) as f32).collect::<Vec<_>>())
            .collect();
        (Directions::new(&rows, D).unwrap(), labels)
    }

    fn go_on(_: u64, _: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    #[test]
    fn planted_clusters_come_back_in_the_same_order_from_any_seed() {
        let (rows, labels) = planted(&[90, 50, 20], 0.4, 3);
        for assign in [Assignment::Soft, Assignment::Hard] {
            for seed in 0..5 {
                let settings = Settings { k: vec![3], assign, seed, ..Settings::default() };
                let choice = choose(&rows, &settings, &mut go_on).unwrap();
                assert_eq!(choice.fitted.labels, labels, "the planted ones are in order of size");
                assert!(choice.held_out.is_empty());
            }
        }
    }

    #[test]
    fn the_number_of_clusters_is_found_by_held_out_likelihood() {
        let (rows, _) = planted(&[60, 50, 40], 0.5, 7);
        let settings = Settings { k: vec![5, 1, 2, 3, 4], ..Settings::default() };
        let choice = choose(&rows, &settings, &mut go_on).unwrap();
        assert_eq!(choice.fitted.mixture.means.len(), 3, "{:?}", choice.held_out);
        assert_eq!(choice.held_out.iter().map(|(k, _)| *k).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn what_cannot_be_clustered_is_refused_and_a_stop_is_heard() {
        let (rows, _) = planted(&[4, 3], 0.1, 1);
        let with = |k| Settings { k: vec![k], ..Settings::default() };
        assert_eq!(choose(&rows, &with(8), &mut go_on), Err(ClusterError::TooFew { rows: 7, k: 8 }));
        let alike = Directions::new(&[0.5f32; 40], 4).unwrap();
        let collapsed = ClusterError::Collapsed { rows: 10, k: 2, starts: 10 };
        assert_eq!(choose(&alike, &with(2), &mut go_on), Err(collapsed));
        assert_eq!(choose(&rows, &with(2), &mut |_, _| ControlFlow::Break(())), Err(ClusterError::Stopped));
        let zero = ClusterError::Setting { what: "k", least: 1, found: 0 };
        assert_eq!(choose(&rows, &with(0), &mut go_on), Err(zero));
    }
}
