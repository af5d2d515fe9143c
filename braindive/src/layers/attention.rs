//! Multi-head scaled dot-product attention (Vaswani et al. 2017, eq. 1). The backward pass recomputes the probabilities.

use super::gemm::{Matrix, multiply};
use super::kernel::{
    Element, Input, Kernel, Kernels, custom_op, for_each_chunk, map_tasks, run, run_all, with_optional,
};
use super::moments::sum_of_products;
use super::simd::vectorised;
use super::transpose::transposed;
use super::work;
use crate::gradient::Tracked;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

/// Queries per task.
const QUERIES: usize = 128;
/// Keys per tile: a tile of logits, with its keys and values, stays in a level-2 cache.
const KEYS: usize = 512;
/// Queries per block of a backward pass, which keeps a block's probabilities of all keys.
const GRADIENT_QUERIES: usize = 64;
/// A backward pass with fewer heads than this shares the queries of a head among several tasks, whose gradients of keys and
/// values are added up in order.
const GRADIENT_TASKS: usize = 8;
/// Partial results of a row, so that its reduction vectorises.
const LANES: usize = 32;

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
        let y = kept_q.apply_op3_no_bwd(&kept_k, &kept_v, self)?;
        let attention = self.clone();
        let kept = [&kept_q, &kept_k, &kept_v, &y.clone()];
        Ok(Tracked::record(y, [q, k, v], kept, move |[q, k, v, y], grad| attention.input_gradient(q, k, v, y, grad)))
    }

    /// The probabilities softmax(q kᵀ/√d + mask), [batch, heads, queries, keys], without gradient.
    ///
    /// # Errors
    /// The shapes do not fit together.
    pub fn probabilities(&self, q: &Tensor, k: &Tensor) -> Result<Tensor> {
        q.contiguous()?.apply_op2_no_bwd(&k.contiguous()?, &Probabilities(self.clone()))
    }

    /// The gradients of q, k and v.
    fn input_gradient(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        // Logits again, and the gradients of probabilities, queries, keys, values: five products where forward has two.
        work::count(5 * self.geometry(q.dims(), k.dims())?.multiply_adds() / 2);
        let mut gradients = run_all(&InputGradients(self), &[q, k, v, y, &grad.contiguous()?])?.into_iter();
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

/// A finite number below every logit.
#[inline(always)]
fn lowest<T: Element>() -> T {
    T::from_f64(f64::from(f32::MIN))
}

vectorised! {
    /// The largest of some logits; finite even if −∞ hides them all, since they are shifted by it.
    fn largest<T: Element>(logits: &[T]) -> T {
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
    fn exponentiate<T: Element>(logits: &mut [T], shift: T, scale: T) -> T {
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
    fn scale_by<T: Element>(x: &mut [T], scale: T) {
        for x in x {
            *x *= scale;
        }
    }

    /// x ← scale·x + y
    fn scale_and_add<T: Element>(x: &mut [T], scale: T, y: &[T]) {
        for (x, &y) in x.iter_mut().zip(y) {
            *x = *x * scale + y;
        }
    }

    /// dP ← P ∘ (dP − correlation)·scale
    fn softmax_gradient<T: Element>(dp: &mut [T], p: &[T], correlation: T, scale: T) {
        for (dp, &p) in dp.iter_mut().zip(p) {
            *dp = p * (*dp - correlation) * scale;
        }
    }

    /// x += y
    fn add<T: Element>(x: &mut [T], y: &[T]) {
        for (x, &y) in x.iter_mut().zip(y) {
            *x += y;
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

custom_op!(Attention, CustomOp3, "attention");

/// From q, k, v, y, gy to the gradients of q, k, v.
///
/// With P the probabilities and dP = gy vᵀ: dS = P ∘ (dP − rowsum(gy ∘ y))/√d, gq = dS k, gk = dSᵀ q, gv = Pᵀ gy.
struct InputGradients<'a>(&'a Attention);

/// What some queries of a head contribute: the gradients of these queries, and their part of those of the head's keys and
/// values; each [n, size].
struct Contribution<T> {
    q: Vec<T>,
    k: Vec<T>,
    v: Vec<T>,
}

impl Geometry {
    fn contribution<T: Element>(&self, inputs: [&[T]; 6], mask: Option<&[T]>, queries: Queries) -> Contribution<T> {
        let ([q, k, k_transposed, v_transposed, y, grad], m, size) = (inputs, self.keys, self.size);
        let Queries { batch, head, first, rows } = queries;
        let mut sums = Contribution {
            q: vec![T::zero(); rows * size],
            k: vec![T::zero(); m * size],
            v: vec![T::zero(); m * size],
        };
        let block = GRADIENT_QUERIES.min(rows);
        let (mut p, mut ds) = (vec![T::zero(); block * m], vec![T::zero(); block * KEYS.min(m)]);
        for (done, gq) in (0..).step_by(block).zip(sums.q.chunks_mut(block * size)) {
            let (first, rows) = (first + done, gq.len() / size);
            let p = &mut p[..rows * m];
            self.softmax(p, q, k_transposed, mask, Queries { first, rows, ..queries });
            let [q, y, grad] = [q, y, grad].map(|x| self.head(x, self.queries, batch, head, first, rows));
            let correlations: Vec<T> = (0..rows)
                .map(|i| {
                    let row = i * self.width..i * self.width + size;
                    T::from_f64(sum_of_products(&grad.data[row.clone()], &y.data[row], T::zero()))
                })
                .collect();
            for key in (0..m).step_by(KEYS) {
                let keys = KEYS.min(m - key);
                let ds = &mut ds[..rows * keys];
                multiply(ds, keys, false, grad, self.head_transposed(v_transposed, queries, key, keys));
                for (i, ds) in ds.chunks_exact_mut(keys).enumerate() {
                    softmax_gradient(ds, &p[i * m + key..][..keys], correlations[i], self.scale());
                }
                let ds = Matrix::new(ds, rows, keys, keys);
                multiply(gq, size, key > 0, ds, self.head(k, m, batch, head, key, keys));
                multiply(&mut sums.k[key * size..], size, done > 0, ds.transposed(), q);
                let p = Matrix::new(&p[key..], rows, keys, m);
                multiply(&mut sums.v[key * size..], size, done > 0, p.transposed(), grad);
            }
        }
        sums
    }

    /// Lays the heads' parts [n, size] side by side: [batch, n, width]. `part`: batch item and head to part.
    fn merge<'a, T: Element>(&self, n: usize, part: impl Fn(usize, usize, usize) -> &'a [T] + Sync) -> (Vec<T>, Shape) {
        let shape = Shape::from((self.batch, n, self.width));
        let mut merged = vec![T::zero(); shape.elem_count()];
        for_each_chunk(&mut merged, self.width, 2 * shape.elem_count(), |row, merged| {
            for (head, merged) in merged.chunks_exact_mut(self.size).enumerate() {
                merged.copy_from_slice(part(row / n, head, row % n));
            }
        });
        (merged, shape)
    }
}

impl Kernels for InputGradients<'_> {
    fn run<T: Element>(&self, inputs: &[Input<'_, T>]) -> Result<Vec<(Vec<T>, Shape)>> {
        let [q, k, v, y, grad] = inputs else { bail!("the gradient of attention takes q, k, v, y and gy") };
        let heads = self.0.heads;
        let g = self.0.geometry(q.dims, k.dims)?;
        let blocks = g.queries.div_ceil(GRADIENT_QUERIES);
        let parts = GRADIENT_TASKS.div_ceil(heads).min(blocks);
        let share = blocks.div_ceil(parts) * GRADIENT_QUERIES;
        let parts = g.queries.div_ceil(share);
        let [k_transposed, v_transposed] = [k, v].map(|x| transposed(x.data, g.keys, g.width));
        let data = [q.data, k.data, &k_transposed, &v_transposed, y.data, grad.data];
        let mut contributions = with_optional::<T, _>(self.0.mask.as_ref(), |mask| {
            map_tasks(g.batch * heads * parts, 3 * g.work(), |task| {
                let (batch, head, first) = (task / parts / heads, task / parts % heads, task % parts * share);
                g.contribution(data, mask, Queries { batch, head, first, rows: share.min(g.queries - first) })
            })
        })?;
        for_each_chunk(&mut contributions, parts, 4 * parts * g.keys * g.width, |_, parts| {
            let (sums, others) = parts.split_at_mut(1);
            for other in others {
                add(&mut sums[0].k, &other.k);
                add(&mut sums[0].v, &other.v);
            }
        });
        let part = |batch, head| &contributions[(batch * heads + head) * parts..][..parts];
        let row = |i: usize| i * g.size..(i + 1) * g.size;
        Ok(vec![
            g.merge(g.queries, |batch, head, i| &part(batch, head)[i / share].q[row(i % share)]),
            g.merge(g.keys, |batch, head, i| &part(batch, head)[0].k[row(i)]),
            g.merge(g.keys, |batch, head, i| &part(batch, head)[0].v[row(i)]),
        ])
    }
}

struct Probabilities(Attention);

impl Kernel for Probabilities {
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

impl CustomOp2 for Probabilities {
    fn name(&self) -> &'static str {
        "attention-probabilities"
    }
    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        run(self, &[(s1, l1), (s2, l2)])
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{assert_close, assert_gradient, random};
    use super::*;
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
