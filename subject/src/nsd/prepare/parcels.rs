//! Which parcels of the cortex answer most reliably: HCP_MMP1's 180 ranked by noise ceiling (Luo et al. 2023, section 4.1).

/// Parcels of HCP_MMP1; their labels are 1 to 180 in both hemispheres.
pub const PARCELS: u16 = 180;

/// The parcels of one subject, the highest mean noise ceiling signal-to-noise ratio first. NaN voxels do not count; parcels of equal mean
/// stand in the order of their labels, those without a value last.
pub fn by_ncsnr(ncsnr: &[f64], label: impl Fn(usize) -> i32) -> Vec<u16> {
    let mut sums = vec![(0.0, 0usize); usize::from(PARCELS) + 1];
    for (position, value) in ncsnr.iter().enumerate().filter(|(_, value)| !value.is_nan()) {
        if let Some((sum, count)) = usize::try_from(label(position)).ok().and_then(|label| sums.get_mut(label)) {
            *sum += value;
            *count += 1;
        }
    }
    let mean = |parcel: u16| match sums[usize::from(parcel)] {
        (_, 0) => f64::NEG_INFINITY,
        (sum, count) => sum / count as f64,
    };
    let mut parcels: Vec<u16> = (1..=PARCELS).collect();
    parcels.sort_by(|&a, &b| mean(b).total_cmp(&mean(a)));
    parcels
}

/// The `top` parcels of the best mean rank over subjects; equal ranks in the order of their labels.
pub fn best(rankings: &[Vec<u16>], top: usize) -> Vec<u16> {
    let mut ranks = vec![0usize; usize::from(PARCELS) + 1];
    for ranking in rankings {
        ranking.iter().enumerate().for_each(|(rank, &parcel)| ranks[usize::from(parcel)] += rank);
    }
    let mut parcels: Vec<u16> = (1..=PARCELS).collect();
    parcels.sort_by_key(|&parcel| ranks[usize::from(parcel)]);
    parcels.truncate(top);
    parcels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_keep_the_order_of_labels_and_parcels_without_a_value_come_last() {
        // Position p has label p: label 2 is all NaN, 3 and 1 tie, 4 is best; the others have no voxel.
        let ncsnr = [9.0, 0.25, f64::NAN, 0.25, 0.5];
        let ranking = by_ncsnr(&ncsnr, |position| position as i32);
        assert_eq!(ranking[..5], [4, 1, 3, 2, 5]);
        assert_eq!(ranking.len(), 180);
        let negative = by_ncsnr(&[0.0, f64::NAN, -1.0], |position| position as i32);
        assert_eq!(negative[0], 2, "a low value is better than none");
    }

    #[test]
    fn subjects_count_alike_and_equal_mean_ranks_keep_the_order_of_labels() {
        let ranking = |first: [u16; 3]| {
            let rest = (1..=PARCELS).filter(|parcel| !first.contains(parcel));
            first.into_iter().chain(rest).collect::<Vec<_>>()
        };
        assert_eq!(best(&[ranking([7, 9, 8]), ranking([9, 7, 8])], 3), [7, 9, 8]);
        assert_eq!(best(&[ranking([9, 8, 7])], 2), [9, 8]);
        assert_eq!(best(&[], 45).len(), 45);
    }
}
