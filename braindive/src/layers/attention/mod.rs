//! Multi-head scaled dot-product attention (Vaswani et al. 2017, eq. 1). The backward pass recomputes the probabilities.

mod fused;
mod gradient;
mod launch;
mod softmax;

use super::gemm::{Matrix, multiply};
use super::kernel::{Element, Input, Kernel, for_each_chunk, run, run_all, with_optional};
use super::transpose::transposed;
use super::work;
use crate::gradient::Tracked;
use candle_core::{Result, Shape, Tensor, bail};
use gradient::InputGradients;
use softmax::{exponentiate, largest, lowest, scale_and_add, scale_by};

/// Queries per task.
const QUERIES: usize = 128;
/// Keys per tile: a tile of logits, with its keys and values, stays in a level-2 cache.
const KEYS: usize = 512;

/// Attention of `heads` heads that lie side by side in the last dimension.
#[derive(Debug, Clone)]
pub struct Attention {
    heads: usize,
    /// Added to the logits: [queries, keys], or [batch, queries, keys]; −∞ hides a key.
    mask: Option<Tensor>,
}

impl Attention {
    pub fn new(heads: usize) -> Self {
        Self { heads, mask: None }
    }

    /// `mask`: [queries, keys] or [batch, queries, keys], added to the logits.
    ///
    /// # Errors
    /// The mask cannot be made contiguous.
    pub fn with_mask(self, mask: &Tensor) -> Result<Self> {
        Ok(Self { mask: Some(mask.detach().contiguous()?), ..self })
    }

    /// softmax(q kᵀ/√d + mask) v for each head. `q`: [batch, queries, heads·d]; `k`, `v`: [batch, keys, heads·d]; returns
    /// the shape of `q`.
    ///
    /// # Errors
    /// The shapes do not fit together.
    pub fn forward(&self, q: &Tracked, k: &Tracked, v: &Tracked) -> Result<Tracked> {
        let [kept_q, kept_k, kept_v] = [q, k, v].map(|x| x.value().contiguous());
        let (kept_q, kept_k, kept_v) = (kept_q?, kept_k?, kept_v?);
        work::count(self.geometry(kept_q.dims(), kept_k.dims())?.multiply_adds());
        let mut outputs = run_all(self, &[&kept_q, &kept_k, &kept_v])?.into_iter();
        let Some(y) = outputs.next() else { bail!("attention gave no output") };
        // Without statistics y stands in their place, which is kept anyway.
        let statistics = outputs.next();
        let kept = [&kept_q, &kept_k, &kept_v, &y, statistics.as_ref().unwrap_or(&y)].map(Tensor::clone);
        let (attention, has_statistics) = (self.clone(), statistics.is_some());
        Ok(Tracked::record(y, [q, k, v], kept.each_ref(), move |[q, k, v, y, statistics], grad| {
            attention.input_gradient([q, k, v, y, grad], has_statistics.then_some(statistics))
        }))
    }

    /// The probabilities softmax(q kᵀ/√d + mask), [batch, heads, queries, keys], without gradient.
    ///
    /// # Errors
    /// The shapes do not fit together.
    pub fn probabilities(&self, q: &Tensor, k: &Tensor) -> Result<Tensor> {
        run(&Probabilities(self), &[q, k])
    }

    /// The gradients of q, k and v.
    fn input_gradient(&self, inputs: [&Tensor; 5], statistics: Option<&Tensor>) -> Result<[Option<Tensor>; 3]> {
        let [q, k, ..] = inputs;
        // Logits again, and the gradients of probabilities, queries, keys, values: five products where forward has two.
        work::count(5 * self.geometry(q.dims(), k.dims())?.multiply_adds() / 2);
        let mut gradients = run_all(&InputGradients { attention: self, statistics }, &inputs)?.into_iter();
        Ok(std::array::from_fn(|_| gradients.next()))
    }

    fn geometry(&self, q: &[usize], k: &[usize]) -> Result<Geometry> {
        match (q, k) {
            (&[batch, queries, width], &[k_batch, keys, k_width])
                if batch == k_batch
                    && width == k_width
                    && width.is_multiple_of(self.heads)
                    && queries.min(keys).min(width) > 0 =>
            {
                let mask_stride = match self.mask.as_ref().map(Tensor::dims) {
                    None => 0,
                    Some(&[n, m]) if (n, m) == (queries, keys) => 0,
                    Some(&[b, n, m]) if (b, n, m) == (batch, queries, keys) => n * m,
                    Some(mask) => bail!("an attention mask has shape {mask:?}, expected {:?}", (queries, keys)),
                };
                Ok(Geometry { batch, queries, keys, width, size: width / self.heads, mask_stride })
            }
            _ => bail!("attention of {} heads was given queries {q:?} and keys {k:?}", self.heads),
        }
    }
}

#[derive(Clone, Copy)]
struct Geometry {
    batch: usize,
    queries: usize,
    keys: usize,
    /// heads · size
    width: usize,
    /// Features per head.
    size: usize,
    /// Elements from one batch item's mask to the next; 0 if they share one.
    mask_stride: usize,
}

/// Some queries of one head of one batch item.
#[derive(Clone, Copy)]
struct Queries {
    batch: usize,
    head: usize,
    first: usize,
    rows: usize,
}

impl Geometry {
    /// The head of one batch item in a tensor [batch, n, width], from row `first`.
    fn head<'a, T>(
        &self,
        data: &'a [T],
        n: usize,
        batch: usize,
        head: usize,
        first: usize,
        rows: usize,
    ) -> Matrix<'a, T> {
        let start = (batch * n + first) * self.width + head * self.size;
        Matrix::new(&data[start..], rows, self.size, self.width)
    }

    /// The transposes of a head's keys or values from `first`, [size, n], in the transposed tensor [batch, width, keys].
    fn head_transposed<'a, T>(&self, data: &'a [T], queries: Queries, first: usize, n: usize) -> Matrix<'a, T> {
        let start = (queries.batch * self.width + queries.head * self.size) * self.keys + first;
        Matrix::new(&data[start..], self.size, n, self.keys)
    }

    /// Of a forward pass.
    fn multiply_adds(&self) -> usize {
        2 * self.batch * self.queries * self.keys * self.width
    }

    fn work(&self) -> usize {
        2 * self.multiply_adds()
    }

    /// 1/√d, the scale of the logits.
    fn scale<T: Element>(&self) -> T {
        T::from_f64(1.0 / (self.size as f64).sqrt())
    }

    /// Writes the logits of `queries` and the keys from `first_key` into `tile` [rows, keys of the tile], and returns the scale that
    /// they still lack: with a mask none, else 1/√d. `k`: the transposed keys [batch, width, keys].
    fn logits<T: Element>(
        &self,
        tile: &mut [T],
        q: &[T],
        k: &[T],
        mask: Option<&[T]>,
        at: Queries,
        first_key: usize,
    ) -> T {
        let keys = tile.len() / at.rows;
        let queries = self.head(q, self.queries, at.batch, at.head, at.first, at.rows);
        multiply(tile, keys, false, queries, self.head_transposed(k, at, first_key, keys));
        let Some(mask) = mask else { return self.scale() };
        for (i, row) in tile.chunks_exact_mut(keys).enumerate() {
            let start = at.batch * self.mask_stride + (at.first + i) * self.keys + first_key;
            scale_and_add(row, self.scale(), &mask[start..start + keys]);
        }
        T::one()
    }

    /// Writes the probabilities softmax(q kᵀ/√d + mask) of `queries` into `output` [rows, keys].
    fn softmax<T: Element>(&self, output: &mut [T], q: &[T], k: &[T], mask: Option<&[T]>, queries: Queries) {
        let scale = self.logits(output, q, k, mask, queries, 0);
        for row in output.chunks_exact_mut(self.keys) {
            let shift = largest(row);
            let total = exponentiate(row, shift, scale);
            scale_by(row, T::one() / total);
        }
    }

    /// Writes softmax(q kᵀ/√d + mask) v of `queries` into `y`, whose rows lie `width` apart, one tile of keys after the other:
    /// sums so far are scaled down whenever a larger logit appears (Milakov & Gimelshein 2018, algorithm 3).
    fn attend<T: Element>(&self, y: &mut [T], inputs: [&[T]; 3], mask: Option<&[T]>, queries: Queries, tile: &mut [T]) {
        let ([q, k, v], rows) = (inputs, queries.rows);
        let mut sums = vec![(lowest(), T::zero()); rows];
        for first in (0..self.keys).step_by(KEYS) {
            let keys = KEYS.min(self.keys - first);
            let tile = &mut tile[..rows * keys];
            let scale = self.logits(tile, q, k, mask, queries, first);
            for (i, ((known, total), row)) in sums.iter_mut().zip(tile.chunks_exact_mut(keys)).enumerate() {
                let found = largest(row);
                if found > *known {
                    let correction = ((*known - found) * scale).exp();
                    *known = found;
                    *total *= correction;
                    if first > 0 {
                        scale_by(&mut y[i * self.width..][..self.size], correction);
                    }
                }
                *total += exponentiate(row, *known, scale);
            }
            let values = self.head(v, self.keys, queries.batch, queries.head, first, keys);
            multiply(y, self.width, first > 0, Matrix::new(tile, rows, keys, keys), values);
        }
        for (i, (_, total)) in sums.into_iter().enumerate() {
            scale_by(&mut y[i * self.width..][..self.size], T::one() / total);
        }
    }
}

impl Kernel for Attention {
    fn run<T: Element>(&self, inputs: &[Input<'_, T>]) -> Result<(Vec<T>, Shape)> {
        let [q, k, v] = inputs else { bail!("attention takes queries, keys and values") };
        let g = self.geometry(q.dims, k.dims)?;
        if v.dims != k.dims {
            bail!("attention was given keys {:?} and values {:?}", k.dims, v.dims);
        }
        let mut y = vec![T::zero(); q.data.len()];
        let k = transposed(k.data, g.keys, g.width);
        with_optional::<T, _>(self.mask.as_ref(), |mask| {
            let blocks = g.queries.div_ceil(QUERIES);
            let mut tasks: Vec<&mut [T]> =
                y.chunks_mut(g.queries * g.width).flat_map(|item| item.chunks_mut(QUERIES * g.width)).collect();
            for_each_chunk(&mut tasks, 1, g.work(), |i, tasks| {
                let (y, batch, first) = (&mut *tasks[0], i / blocks, i % blocks * QUERIES);
                let rows = y.len() / g.width;
                let mut tile = vec![T::zero(); rows * KEYS.min(g.keys)];
                for head in 0..self.heads {
                    let queries = Queries { batch, head, first, rows };
                    g.attend(&mut y[head * g.size..], [q.data, &k, v.data], mask, queries, &mut tile);
                }
            });
        })?;
        Ok((y, Shape::from(q.dims)))
    }
}

struct Probabilities<'a>(&'a Attention);

impl Kernel for Probabilities<'_> {
    fn run<T: Element>(&self, inputs: &[Input<'_, T>]) -> Result<(Vec<T>, Shape)> {
        let (q, k, heads) = (&inputs[0], &inputs[1], self.0.heads);
        let g = self.0.geometry(q.dims, k.dims)?;
        let shape = Shape::from((g.batch, heads, g.queries, g.keys));
        let mut p = vec![T::zero(); shape.elem_count()];
        let k = transposed(k.data, g.keys, g.width);
        with_optional::<T, _>(self.0.mask.as_ref(), |mask| {
            for_each_chunk(&mut p, g.queries * g.keys, g.work(), |i, p| {
                let queries = Queries { batch: i / heads, head: i % heads, first: 0, rows: g.queries };
                g.softmax(p, q.data, &k, mask, queries);
            });
        })?;
        Ok((p, shape))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::gradient_check::{assert_close, assert_gradient, gradient, random};
    use candle_core::D;

    /// Attention from candle's elementary operations: (output, probabilities).
    fn composed(heads: usize, q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>) -> (Tensor, Tensor) {
        let split = |x: &Tensor| {
            let (b, n, width) = x.dims3().unwrap();
            x.reshape((b, n, heads, width / heads)).unwrap().transpose(1, 2).unwrap().contiguous().unwrap()
        };
        let (q, k, v) = (split(q), split(k), split(v));
        let scale = 1.0 / (q.dim(D::Minus1).unwrap() as f64).sqrt();
        let mut logits = (q.matmul(&k.t().unwrap()).unwrap() * scale).unwrap();
        if let Some(mask) = mask {
            logits = logits.broadcast_add(mask).unwrap();
        }
        let e = logits.broadcast_sub(&logits.max_keepdim(D::Minus1).unwrap()).unwrap().exp().unwrap();
        let p = e.broadcast_div(&e.sum_keepdim(D::Minus1).unwrap()).unwrap();
        let y = p.matmul(&v).unwrap().transpose(1, 2).unwrap().flatten_from(2).unwrap();
        (y, p)
    }

    #[test]
    fn equals_its_composition_and_all_three_gradients_are_exact() {
        for (queries, keys) in [(6, 9), (200, 5)] {
            let (q, k, v) = (random(&[2, queries, 12], 1), random(&[2, keys, 12], 2), random(&[2, keys, 12], 3));
            let attention = Attention::new(3);
            let (y, p) = composed(3, &q, &k, &v, None);
            assert_close(
                attention.forward(&Tracked::from(&q), &Tracked::from(&k), &Tracked::from(&v)).unwrap().value(),
                &y,
                1e-13,
            );
            assert_close(&attention.probabilities(&q, &k).unwrap(), &p, 1e-13);
            assert_gradient(&q, |q| attention.forward(q, &Tracked::from(&k), &Tracked::from(&v)));
            assert_gradient(&k, |k| attention.forward(&Tracked::from(&q), k, &Tracked::from(&v)));
            assert_gradient(&v, |v| attention.forward(&Tracked::from(&q), &Tracked::from(&k), v));
            assert_gradient(&k, |k| attention.forward(k, k, k));
        }
    }

    #[test]
    fn many_keys_and_queries_are_worked_through_in_tiles_and_parts() {
        let (q, k, v) = (random(&[2, 150, 4], 1), random(&[2, 1100, 4], 2), random(&[2, 1100, 4], 3));
        // Logits that grow along the keys, so that each tile of keys has the largest so far; the first tile is hidden from some.
        let rising: Vec<f64> = (0..150 * 1100)
            .map(|i| if i / 1100 % 2 == 0 && i % 1100 < 600 { f64::NEG_INFINITY } else { (i % 1100) as f64 / 50.0 })
            .collect();
        let rising = Tensor::from_vec(rising, (150, 1100), q.device()).unwrap();
        let attention = Attention::new(2).with_mask(&rising).unwrap();
        let (y, _) = composed(2, &q, &k, &v, Some(&rising));
        let [cq, ck, cv] = [&q, &k, &v].map(Tracked::from);
        assert_close(attention.forward(&cq, &ck, &cv).unwrap().value(), &y, 1e-13);
        assert_gradient(&q, |q| attention.forward(q, &ck, &cv));
        assert_gradient(&k, |k| attention.forward(&cq, k, &cv));
        assert_gradient(&v, |v| attention.forward(&cq, &ck, v));
    }

    #[test]
    fn gradients_do_not_depend_on_the_number_of_threads() {
        let x = random(&[1, 500, 64], 1).to_dtype(candle_core::DType::F32).unwrap();
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| gradient(&x, &|x| Attention::new(1).forward(x, x, x)).0)
        };
        assert_close(&run(1), &run(3), 0.0);
    }

    #[test]
    fn a_mask_hides_keys_from_output_and_gradient() {
        let x = random(&[2, 5, 8], 1);
        let causal: Vec<f64> = (0..25).map(|i| if i % 5 > i / 5 { f64::NEG_INFINITY } else { 0.0 }).collect();
        let causal = Tensor::from_vec(causal, (5, 5), x.device()).unwrap();
        let shared = Attention::new(2).with_mask(&causal).unwrap();
        let (y, p) = composed(2, &x, &x, &x, Some(&causal));
        assert_close(
            shared.forward(&Tracked::from(&x), &Tracked::from(&x), &Tracked::from(&x)).unwrap().value(),
            &y,
            1e-13,
        );
        assert_close(&shared.probabilities(&x, &x).unwrap(), &p, 1e-13);
        assert_gradient(&x, |x| shared.forward(x, x, x));
        let own = Attention::new(2).with_mask(&random(&[2, 5, 5], 4)).unwrap();
        let (y, _) = composed(2, &x, &x, &x, Some(&random(&[2, 1, 5, 5], 4)));
        assert_close(
            own.forward(&Tracked::from(&x), &Tracked::from(&x), &Tracked::from(&x)).unwrap().value(),
            &y,
            1e-13,
        );
        assert_gradient(&x, |x| own.forward(x, x, x));
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let x = random(&[1, 4, 6], 1);
        assert!(Attention::new(4).forward(&Tracked::from(&x), &Tracked::from(&x), &Tracked::from(&x)).is_err());
        assert!(
            Attention::new(2)
                .forward(&Tracked::from(&x), &Tracked::from(random(&[1, 4, 8], 1)), &Tracked::from(&x))
                .is_err()
        );
        assert!(
            Attention::new(2)
                .with_mask(&random(&[3, 4], 1))
                .unwrap()
                .forward(&Tracked::from(&x), &Tracked::from(&x), &Tracked::from(&x))
                .is_err()
        );
        assert!(
            Attention::new(2)
                .forward(
                    &Tracked::from(&x),
                    &Tracked::from(random(&[1, 0, 6], 1)),
                    &Tracked::from(random(&[1, 0, 6], 1))
                )
                .is_err()
        );
        assert!(
            Attention::new(2)
                .forward(&Tracked::from(random(&[1, 0, 6], 1)), &Tracked::from(&x), &Tracked::from(&x))
                .is_err()
        );
    }
}
