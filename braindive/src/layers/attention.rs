//! Multi-head scaled dot-product attention (Vaswani et al. 2017, eq. 1). The backward pass recomputes the probabilities.

use super::gemm::{Matrix, multiply};
use super::kernel::{Element, Input, Kernel, custom_op, for_each_chunk, map_tasks, run, with_optional};
use super::work;
use crate::gradient::Tracked;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

/// Queries per task: bounds the memory of the probabilities.
const QUERIES: usize = 128;

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
        let (queries, keys) = (q.dim(1)?, k.dim(1)?);
        let tensors = Tensor::cat(&[q, y, &grad.contiguous()?, k, v], 1)?.contiguous()?;
        let gradients = tensors.apply_op1_no_bwd(&InputGradient { attention: self.clone(), queries, keys })?;
        let part = |start, length| Ok::<_, candle_core::Error>(Some(gradients.narrow(1, start, length)?.contiguous()?));
        Ok([part(0, queries)?, part(queries, keys)?, part(queries + keys, keys)?])
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

    /// Of a forward pass.
    fn multiply_adds(&self) -> usize {
        2 * self.batch * self.queries * self.keys * self.width
    }

    fn work(&self) -> usize {
        2 * self.multiply_adds()
    }

    /// Writes the probabilities softmax(q kᵀ/√d + mask) of `queries` into `output` [rows, keys].
    fn softmax<T: Element>(&self, output: &mut [T], q: &[T], k: &[T], mask: Option<&[T]>, queries: Queries) {
        let Queries { batch, head, first, rows } = queries;
        let queries = self.head(q, self.queries, batch, head, first, rows);
        let keys = self.head(k, self.keys, batch, head, 0, self.keys);
        multiply(output, self.keys, false, queries, keys.transposed());
        let scale = T::from_f64(1.0 / (self.size as f64).sqrt());
        for (i, row) in output.chunks_exact_mut(self.keys).enumerate() {
            row.iter_mut().for_each(|logit| *logit *= scale);
            if let Some(mask) = mask {
                let mask = &mask[batch * self.mask_stride + (first + i) * self.keys..];
                row.iter_mut().zip(mask).for_each(|(logit, &mask)| *logit += mask);
            }
            let largest = row.iter().fold(row[0], |a, &b| if b > a { b } else { a });
            let mut total = T::zero();
            for p in row.iter_mut() {
                *p = (*p - largest).exp();
                total += *p;
            }
            let scale = T::one() / total;
            row.iter_mut().for_each(|p| *p *= scale);
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
        with_optional::<T, _>(self.mask.as_ref(), |mask| {
            let blocks = g.queries.div_ceil(QUERIES);
            let mut tasks: Vec<&mut [T]> =
                y.chunks_mut(g.queries * g.width).flat_map(|item| item.chunks_mut(QUERIES * g.width)).collect();
            for_each_chunk(&mut tasks, 1, g.work(), |i, tasks| {
                let (y, batch, first) = (&mut *tasks[0], i / blocks, i % blocks * QUERIES);
                let rows = y.len() / g.width;
                let mut p = vec![T::zero(); rows * g.keys];
                for head in 0..self.heads {
                    g.softmax(&mut p, q.data, k.data, mask, Queries { batch, head, first, rows });
                    let values = g.head(v.data, g.keys, batch, head, 0, g.keys);
                    let p = Matrix::new(&p, rows, g.keys, g.keys);
                    multiply(&mut y[head * g.size..], g.width, false, p, values);
                }
            });
        })?;
        Ok((y, Shape::from(q.dims)))
    }
}

custom_op!(Attention, CustomOp3, "attention");

/// From q, y, gy, k, v, stacked along the sequence, to the gradients of q, k, v, stacked likewise.
///
/// With P the probabilities and dP = gy vᵀ: dS = P ∘ (dP − rowsum(gy ∘ y))/√d, gq = dS k, gk = dSᵀ q, gv = Pᵀ gy.
struct InputGradient {
    attention: Attention,
    queries: usize,
    keys: usize,
}

impl Kernel for InputGradient {
    fn run<T: Element>(&self, inputs: &[Input<'_, T>]) -> Result<(Vec<T>, Shape)> {
        let (stack, heads) = (&inputs[0], self.attention.heads);
        let (n, m) = (self.queries, self.keys);
        let &[batch, length, width] = stack.dims else { bail!("stacked attention inputs have shape {:?}", stack.dims) };
        let g = self.attention.geometry(&[batch, n, width], &[batch, m, width])?;
        let scale = T::from_f64(1.0 / (g.size as f64).sqrt());
        let head_gradients = |task: usize, mask: Option<&[T]>| {
            let (b, head) = (task / heads, task % heads);
            let item = &stack.data[b * length * width..(b + 1) * length * width];
            let (q, rest) = item.split_at(n * width);
            let (y, rest) = rest.split_at(n * width);
            let (grad, rest) = rest.split_at(n * width);
            let (k, v) = rest.split_at(m * width);
            let mask = mask.map(|mask| &mask[b * g.mask_stride..]);
            let mut gradients = vec![T::zero(); (n + 2 * m) * g.size];
            let (gq, rest) = gradients.split_at_mut(n * g.size);
            let (gk, gv) = rest.split_at_mut(m * g.size);
            let block = QUERIES.min(n);
            let (mut p, mut ds) = (vec![T::zero(); block * m], vec![T::zero(); block * m]);
            for first in (0..n).step_by(block) {
                let rows = block.min(n - first);
                let (p, ds) = (&mut p[..rows * m], &mut ds[..rows * m]);
                g.softmax(p, q, k, mask, Queries { batch: 0, head, first, rows });
                let (grad, y) = (g.head(grad, n, 0, head, first, rows), g.head(y, n, 0, head, first, rows));
                multiply(ds, m, false, grad, g.head(v, m, 0, head, 0, m).transposed());
                for (i, (ds, p)) in ds.chunks_exact_mut(m).zip(p.chunks_exact(m)).enumerate() {
                    let row = i * width..i * width + g.size;
                    let mut correlation = T::zero();
                    for (&grad, &y) in grad.data[row.clone()].iter().zip(&y.data[row]) {
                        correlation += grad * y;
                    }
                    ds.iter_mut().zip(p).for_each(|(d, &p)| *d = p * (*d - correlation) * scale);
                }
                let (p, ds) = (Matrix::new(p, rows, m, m), Matrix::new(ds, rows, m, m));
                multiply(&mut gq[first * g.size..], g.size, false, ds, g.head(k, m, 0, head, 0, m));
                multiply(gk, g.size, first > 0, ds.transposed(), g.head(q, n, 0, head, first, rows));
                multiply(gv, g.size, first > 0, p.transposed(), grad);
            }
            gradients
        };
        let by_head = with_optional::<T, _>(self.attention.mask.as_ref(), |mask| {
            map_tasks(batch * heads, 3 * g.work(), |task| head_gradients(task, mask))
        })?;
        let shape = Shape::from((batch, n + 2 * m, width));
        let mut merged = vec![T::zero(); shape.elem_count()];
        for_each_chunk(&mut merged, width, 2 * shape.elem_count(), |row, merged| {
            let (b, row) = (row / (n + 2 * m), row % (n + 2 * m));
            for (head, part) in merged.chunks_exact_mut(g.size).enumerate() {
                part.copy_from_slice(&by_head[b * heads + head][row * g.size..(row + 1) * g.size]);
            }
        });
        Ok((merged, shape))
    }
}

custom_op!(InputGradient, CustomOp1, "attention-input-gradient");

struct Probabilities(Attention);

impl Kernel for Probabilities {
    fn run<T: Element>(&self, inputs: &[Input<'_, T>]) -> Result<(Vec<T>, Shape)> {
        let (q, k, heads) = (&inputs[0], &inputs[1], self.0.heads);
        let g = self.0.geometry(q.dims, k.dims)?;
        let shape = Shape::from((g.batch, heads, g.queries, g.keys));
        let mut p = vec![T::zero(); shape.elem_count()];
        with_optional::<T, _>(self.0.mask.as_ref(), |mask| {
            for_each_chunk(&mut p, g.queries * g.keys, g.work(), |i, p| {
                let queries = Queries { batch: i / heads, head: i % heads, first: 0, rows: g.queries };
                g.softmax(p, q.data, k.data, mask, queries);
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
