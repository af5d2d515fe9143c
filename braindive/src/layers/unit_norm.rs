//! Vectors of length one.

use crate::gradient::Tracked;
use candle_core::{D, Result};

/// `x`: [..., features]; divides every vector by its length, or by 10⁻¹² if it is shorter.
///
/// With u the result, the gradient is (g − u (u·g))/|x|.
///
/// # Errors
/// `x` is a single number.
pub fn unit_norm(x: &Tracked) -> Result<Tracked> {
    let length = x.value().sqr()?.sum_keepdim(D::Minus1)?.sqrt()?.maximum(1e-12)?;
    let unit = x.value().broadcast_div(&length)?;
    Ok(Tracked::record(unit.clone(), [x], [&unit, &length], |[unit, length], grad| {
        let along = (unit * grad)?.sum_keepdim(D::Minus1)?;
        Ok([Some((grad - unit.broadcast_mul(&along)?)?.broadcast_div(length)?)])
    }))
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{assert_close, assert_gradient, random};
    use super::*;
    use candle_core::Tensor;

    #[test]
    fn vectors_get_length_one_and_the_gradient_is_exact() {
        let x = random(&[3, 7], 1);
        let unit = unit_norm(&Tracked::from(&x)).unwrap().into_value();
        let lengths = unit.sqr().unwrap().sum(1).unwrap();
        assert_close(&lengths, &Tensor::ones_like(&lengths).unwrap(), 1e-15);
        assert_gradient(&x, unit_norm);
        let zero = (&x * 0.0).unwrap();
        assert_close(unit_norm(&Tracked::from(&zero)).unwrap().value(), &zero, 0.0);
    }
}
