//! Sums and rearrangements of tracked values: what stands between the layers of a network.

use super::Tracked;
use crate::layers::transpose;
use candle_core::{DType, Result, Tensor};

impl Tracked {
    /// The sum of two values of one shape.
    ///
    /// # Errors
    /// The shapes differ.
    pub fn add(&self, other: &Self) -> Result<Self> {
        let sum = (self.value() + other.value())?;
        Ok(Self::record(sum, [self, other], [], |[], grad| Ok([Some(grad.clone()), Some(grad.clone())])))
    }

    /// a·x + b·y of two values of one shape.
    ///
    /// # Errors
    /// The shapes differ.
    pub fn weighted_sum(a: f64, x: &Self, b: f64, y: &Self) -> Result<Self> {
        let sum = ((x.value() * a)? + (y.value() * b)?)?;
        let tracked = [x.is_tracked(), y.is_tracked()];
        Ok(Self::record(sum, [x, y], [], move |[], grad| {
            let part = |tracked: bool, weight: f64| tracked.then(|| grad * weight).transpose();
            Ok([part(tracked[0], a)?, part(tracked[1], b)?])
        }))
    }

    /// scale·x + shift, with two numbers.
    ///
    /// # Errors
    /// The device cannot compute it.
    pub fn affine(&self, scale: f64, shift: f64) -> Result<Self> {
        let value = self.value().affine(scale, shift)?;
        Ok(Self::record(value, [self], [], move |[], grad| Ok([Some((grad * scale)?)])))
    }

    /// The value in another precision; its gradient comes back in this one.
    ///
    /// # Errors
    /// The device cannot convert it.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        let (value, before) = (self.value().to_dtype(dtype)?, self.value().dtype());
        Ok(Self::record(value, [self], [], move |[], grad| Ok([Some(grad.to_dtype(before)?)])))
    }

    /// x + shift, with a constant tensor that broadcasts to the shape of x.
    ///
    /// # Errors
    /// It does not.
    pub fn broadcast_add(&self, shift: &Tensor) -> Result<Self> {
        let value = self.value().broadcast_add(shift)?;
        Ok(Self::record(value, [self], [], |[], grad| Ok([Some(grad.clone())])))
    }

    /// Two values side by side in dimension `dim`.
    ///
    /// # Errors
    /// The other dimensions differ.
    pub fn cat(first: &Self, second: &Self, dim: usize) -> Result<Self> {
        let value = Tensor::cat(&[first.value(), second.value()], dim)?;
        let (a, b) = (first.value().dim(dim)?, second.value().dim(dim)?);
        let wanted = [first.is_tracked(), second.is_tracked()];
        Ok(Self::record(value, [first, second], [], move |[], grad| {
            let part =
                |wanted: bool, start, length| wanted.then(|| grad.narrow(dim, start, length)?.contiguous()).transpose();
            Ok([part(wanted[0], 0, a)?, part(wanted[1], a, b)?])
        }))
    }

    /// The part `start..start + length` of dimension `dim`.
    ///
    /// # Errors
    /// There is no such part.
    pub fn narrow(&self, dim: usize, start: usize, length: usize) -> Result<Self> {
        let value = self.value().narrow(dim, start, length)?.contiguous()?;
        let after = self.value().dim(dim)? - start - length;
        Ok(Self::record(value, [self], [], move |[], grad| Ok([Some(grad.pad_with_zeros(dim, start, after)?)])))
    }

    /// The same elements in another shape.
    ///
    /// # Errors
    /// The numbers of elements differ.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        let (value, before) = (self.value().reshape(shape)?, self.value().shape().clone());
        Ok(Self::record(value, [self], [], move |[], grad| Ok([Some(grad.reshape(&before)?)])))
    }

    /// A map [batch, channels, height, width] as tokens [batch, height·width, channels].
    ///
    /// # Errors
    /// The value is no map.
    pub fn to_tokens(&self) -> Result<Self> {
        let (_, _, height, width) = self.value().dims4()?;
        let value = tokens_of(self.value())?;
        Ok(Self::record(value, [self], [], move |[], grad| Ok([Some(map_of(grad, height, width)?)])))
    }

    /// Tokens [batch, height·width, channels] as a map [batch, channels, height, width].
    ///
    /// # Errors
    /// There are not so many tokens.
    pub fn to_map(&self, height: usize, width: usize) -> Result<Self> {
        let value = map_of(self.value(), height, width)?;
        Ok(Self::record(value, [self], [], |[], grad| Ok([Some(tokens_of(grad)?)])))
    }
}

fn tokens_of(map: &Tensor) -> Result<Tensor> {
    transpose(&map.flatten_from(2)?)
}

fn map_of(tokens: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (batch, _, channels) = tokens.dims3()?;
    transpose(tokens)?.reshape((batch, channels, height, width))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::gradient_check::{assert_gradient, random};

    #[test]
    fn every_gradient_is_exact() {
        let (x, other) = (random(&[2, 3, 4, 5], 1), Tracked::from(random(&[2, 3, 4, 5], 2)));
        let shift = random(&[1, 3, 1, 1], 4);
        assert_gradient(&x, |x| x.add(&other)?.add(x));
        assert_gradient(&x, |x| Tracked::weighted_sum(3.0, &x.affine(2.0, 1.0)?, -0.5, x));
        assert_gradient(&x, |x| x.affine(-0.5, 3.0));
        assert_gradient(&x, |x| x.broadcast_add(&shift)?.to_dtype(DType::F64));
        assert_gradient(&x, |x| Tracked::cat(x, &other, 1)?.narrow(1, 2, 3));
        assert_gradient(&x, |x| Tracked::cat(&other, x, 3));
        assert_gradient(&x, |x| x.narrow(2, 1, 2));
        assert_gradient(&x, |x| x.to_tokens()?.reshape(&[2, 60]));
        assert_gradient(&random(&[2, 20, 3], 1), |x| x.to_map(4, 5));
    }

    #[test]
    fn a_map_and_its_tokens_hold_the_same_elements() {
        let map = Tracked::from(random(&[2, 3, 4, 5], 1));
        let tokens = map.to_tokens().unwrap();
        assert_eq!(tokens.value().dims(), [2, 20, 3]);
        let element = |t: &Tensor, at: [usize; 3]| {
            t.get(at[0]).unwrap().get(at[1]).unwrap().get(at[2]).unwrap().to_scalar::<f64>().unwrap()
        };
        let flat = map.value().flatten_from(2).unwrap();
        assert_eq!(element(tokens.value(), [1, 7, 2]), element(&flat, [1, 2, 7]));
        let back = tokens.to_map(4, 5).unwrap();
        assert_eq!(element(&back.value().flatten_from(2).unwrap(), [1, 2, 7]), element(&flat, [1, 2, 7]));
    }
}
