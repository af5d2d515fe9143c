//! The softmax of rows of logits, and what its gradient does to rows.

use crate::layers::kernel::Element;
use crate::layers::simd::vectorised;

/// Partial results of a row, so that its reduction vectorises.
const LANES: usize = 32;

/// A finite number below every logit.
#[inline(always)]
pub(super) fn lowest<T: Element>() -> T {
    T::from_f64(f64::from(f32::MIN))
}

vectorised! {
    /// The largest of some logits; finite even if −∞ hides them all, since they are shifted by it.
    pub(super) fn largest<T: Element>(logits: &[T]) -> T {
        let (chunks, rest) = logits.as_chunks::<LANES>();
        let mut lanes = [lowest(); LANES];
        for chunk in chunks {
            for lane in 0..LANES {
                lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
            }
        }
        let mut largest = lowest();
        for &x in lanes.iter().chain(rest) {
            largest = if x > largest { x } else { largest };
        }
        largest
    }

    /// x ← exp(scale·(x − shift)); returns the sum.
    pub(super) fn exponentiate<T: Element>(logits: &mut [T], shift: T, scale: T) -> T {
        for x in logits.iter_mut() {
            *x = ((*x - shift) * scale).exp();
        }
        let (chunks, rest) = logits.as_chunks::<LANES>();
        let mut lanes = [T::zero(); LANES];
        for chunk in chunks {
            for lane in 0..LANES {
                lanes[lane] += chunk[lane];
            }
        }
        let mut total = T::zero();
        for &x in lanes.iter().chain(rest) {
            total += x;
        }
        total
    }

    /// x ← scale·x
    pub(super) fn scale_by<T: Element>(x: &mut [T], scale: T) {
        for x in x {
            *x *= scale;
        }
    }

    /// x ← scale·x + y
    pub(super) fn scale_and_add<T: Element>(x: &mut [T], scale: T, y: &[T]) {
        for (x, &y) in x.iter_mut().zip(y) {
            *x = *x * scale + y;
        }
    }

    /// dP ← P ∘ (dP − correlation)·scale
    pub(super) fn softmax_gradient<T: Element>(dp: &mut [T], p: &[T], correlation: T, scale: T) {
        for (dp, &p) in dp.iter_mut().zip(p) {
            *dp = p * (*dp - correlation) * scale;
        }
    }

    /// x += y
    pub(super) fn add<T: Element>(x: &mut [T], y: &[T]) {
        for (x, &y) in x.iter_mut().zip(y) {
            *x += y;
        }
    }
}
