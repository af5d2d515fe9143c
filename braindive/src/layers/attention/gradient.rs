//! The gradients of attention with respect to queries, keys and values.

use super::softmax::{add, softmax_gradient};
use super::{Attention, Geometry, KEYS, Queries};
use crate::layers::gemm::{Matrix, multiply};
use crate::layers::kernel::{Element, Input, Kernels, for_each_chunk, map_tasks, with_optional};
use crate::layers::moments::sum_of_products;
use crate::layers::transpose::transposed;
use candle_core::{Result, Shape, Tensor, bail};

/// Queries per block of a backward pass, which keeps a block's probabilities of all keys.
const GRADIENT_QUERIES: usize = 64;
/// A backward pass with fewer heads than this shares the queries of a head among several tasks, whose gradients of keys and
/// values are added up in order.
const GRADIENT_TASKS: usize = 8;
/// From q, k, v, y, gy to the gradients of q, k, v.
///
/// With P the probabilities and dP = gy vᵀ: dS = P ∘ (dP − rowsum(gy ∘ y))/√d, gq = dS k, gk = dSᵀ q, gv = Pᵀ gy.
pub(super) struct InputGradients<'a> {
    pub attention: &'a Attention,
    /// The logarithms of the queries' sums of exponentials, f32: [batch, heads, queries], where the forward pass gave them.
    pub statistics: Option<&'a Tensor>,
}

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
        let heads = self.attention.heads;
        let g = self.attention.geometry(q.dims, k.dims)?;
        let blocks = g.queries.div_ceil(GRADIENT_QUERIES);
        let parts = GRADIENT_TASKS.div_ceil(heads).min(blocks);
        let share = blocks.div_ceil(parts) * GRADIENT_QUERIES;
        let parts = g.queries.div_ceil(share);
        let [k_transposed, v_transposed] = [k, v].map(|x| transposed(x.data, g.keys, g.width));
        let data = [q.data, k.data, &k_transposed, &v_transposed, y.data, grad.data];
        let mut contributions = with_optional::<T, _>(self.attention.mask.as_ref(), |mask| {
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
