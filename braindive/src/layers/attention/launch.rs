//! Attention by launches. Heads of 64 features in half precision have kernels of their own, which keep no logits. All others take
//! matrix products and the softmax of some queries at a time, so that memory grows with the keys alone.

use super::gradient::InputGradients;
use super::{Attention, Geometry, Probabilities, fused};
use crate::layers::machine::{Launch, Machine, Operand, Product, grid, int, of_type};
use candle_core::{DType, Result, Shape, Tensor};
use gpu::Argument;

/// Some queries of all heads of one batch item.
#[derive(Clone, Copy)]
struct Part {
    item: usize,
    first: usize,
    rows: usize,
}

/// What attends, and the products and kernels that it takes.
struct Heads<'a> {
    machine: &'a dyn Machine,
    geometry: Geometry,
    heads: usize,
    mask: Option<Tensor>,
    dtype: DType,
}

impl Attention {
    fn on<'a>(&self, machine: &'a dyn Machine, q: &Tensor, k: &Tensor) -> Result<Heads<'a>> {
        let geometry = self.geometry(q.dims(), k.dims())?;
        let mask = self.mask.as_ref().map(|mask| of_type(mask, q.dtype())).transpose()?;
        Ok(Heads { machine, geometry, heads: self.heads, mask, dtype: q.dtype() })
    }
}

impl Heads<'_> {
    /// All queries, in parts whose logits fit.
    fn parts(&self) -> Vec<Part> {
        let g = self.geometry;
        let rows = self.rows();
        let of_item = |item| {
            (0..g.queries).step_by(rows).map(move |first| Part { item, first, rows: rows.min(g.queries - first) })
        };
        (0..g.batch).flat_map(of_item).collect()
    }

    /// Queries of a part, but for the last one of an item.
    fn rows(&self) -> usize {
        (self.machine.scratch_elements() / (self.heads * self.geometry.keys)).clamp(1, self.geometry.queries)
    }

    /// [heads, queries of a part, keys]
    fn scores(&self, dtype: DType) -> Result<Tensor> {
        self.machine.empty(Shape::from((self.heads, self.rows(), self.geometry.keys)), dtype)
    }

    /// The part's rows of q, y or a gradient of theirs, head by head.
    fn queries(&self, tensor: &Tensor, part: Part) -> Result<Operand> {
        self.side_by_side(tensor, part.item * self.geometry.queries + part.first)
    }

    /// The item's keys or values, head by head.
    fn keys(&self, tensor: &Tensor, part: Part) -> Result<Operand> {
        self.side_by_side(tensor, part.item * self.geometry.keys)
    }

    fn side_by_side(&self, tensor: &Tensor, row: usize) -> Result<Operand> {
        let Geometry { width, size, .. } = self.geometry;
        Ok(self.machine.operand(tensor, row * width, width)?.batched(size))
    }

    /// Scores of the part, head by head.
    fn of_part(&self, scores: &Tensor, part: Part) -> Result<Operand> {
        let keys = self.geometry.keys;
        Ok(self.machine.operand(scores, 0, keys)?.batched(part.rows * keys))
    }

    fn scale(&self) -> f64 {
        1.0 / (self.geometry.size as f64).sqrt()
    }

    /// Of every head.
    fn multiply(&self, product: Product) -> Result<()> {
        self.machine.multiply(&product.batched(self.heads))
    }

    /// a bᵀ of the part: [heads, rows, keys].
    fn correlate(&self, output: Operand, a: &Tensor, b: &Tensor, part: Part, scale: f64) -> Result<()> {
        let Geometry { size, keys, .. } = self.geometry;
        let (left, right) = (self.queries(a, part)?, self.keys(b, part)?.transposed());
        self.multiply(Product::new(output, left, right, [part.rows, size, keys]).scaled(scale))
    }

    /// Writes the part's probabilities into `p`, by way of `logits`.
    fn probabilities(&self, p: Operand, logits: &Tensor, q: &Tensor, k: &Tensor, part: Part) -> Result<()> {
        let Geometry { keys, mask_stride, .. } = self.geometry;
        self.correlate(self.of_part(logits, part)?, q, k, part, self.scale())?;
        let mask = match &self.mask {
            Some(mask) => self.machine.operand(mask, part.item * mask_stride, keys)?.address,
            None => 0,
        };
        let arguments = [
            self.machine.pointer(logits)?,
            Argument::Pointer(mask),
            Argument::Pointer(p.address),
            int(keys)?,
            int(part.rows)?,
            int(part.first)?,
        ];
        self.machine.launch("softmax", self.dtype, grid([self.heads * part.rows, 1, 1])?, &arguments)
    }
}

impl Launch for Attention {
    fn launch(&self, machine: &dyn Machine, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let (q, k, v) = (inputs[0], inputs[1], inputs[2]);
        if fused::serves(self, q) {
            return fused::forward(self, machine, q, k, v);
        }
        let heads = self.on(machine, q, k)?;
        let Geometry { size, keys, .. } = heads.geometry;
        let (y, logits, p) = (machine.like(q)?, heads.scores(DType::F32)?, heads.scores(q.dtype())?);
        for part in heads.parts() {
            let p = heads.of_part(&p, part)?;
            heads.probabilities(p, &logits, q, k, part)?;
            let (values, output) = (heads.keys(v, part)?, heads.queries(&y, part)?);
            heads.multiply(Product::new(output, p, values, [part.rows, keys, size]))?;
        }
        Ok(vec![y])
    }
}

impl Launch for Probabilities<'_> {
    fn launch(&self, machine: &dyn Machine, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let (q, k) = (inputs[0], inputs[1]);
        let heads = self.0.on(machine, q, k)?;
        let Geometry { batch, queries, keys, .. } = heads.geometry;
        let p = machine.empty(Shape::from((batch, heads.heads, queries, keys)), q.dtype())?;
        let logits = machine.empty(Shape::from((heads.heads, queries, keys)), DType::F32)?;
        for item in 0..batch {
            let of_item = machine.operand(&p, item * heads.heads * queries * keys, keys)?;
            heads.probabilities(of_item, &logits, q, k, Part { item, first: 0, rows: queries })?;
        }
        Ok(vec![p])
    }
}

/// What the gradient of the logits is multiplied by while it is kept, a power of two: among many keys probabilities are small, and their products
/// with a small gradient have few bits left in f16. The root of what would make a mean probability one leaves as much room above.
fn against_underflow(keys: usize) -> f32 {
    2.0_f32.powi(keys.ilog2().div_ceil(2).cast_signed())
}

impl Launch for InputGradients<'_> {
    fn launch(&self, machine: &dyn Machine, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let (q, k, v, grad) = (inputs[0], inputs[1], inputs[2], inputs[4]);
        if let Some(statistics) = self.statistics {
            return fused::backward(self.attention, machine, inputs, statistics);
        }
        let heads = self.attention.on(machine, q, k)?;
        let Geometry { size, keys, .. } = heads.geometry;
        let gq = machine.like(q)?;
        // What is added to part by part is added in f32.
        let sums = if heads.rows() < heads.geometry.queries { DType::F32 } else { k.dtype() };
        let [gk, gv] = [k, v].map(|tensor| machine.empty(tensor.shape().clone(), sums));
        let (gk, gv) = (gk?, gv?);
        let (logits, p) = (heads.scores(DType::F32)?, heads.scores(q.dtype())?);
        let (dp, ds) = (heads.scores(DType::F32)?, heads.scores(q.dtype())?);
        let factor = against_underflow(keys);
        let scale = heads.scale() / f64::from(factor);
        for part in heads.parts() {
            let probabilities = heads.of_part(&p, part)?;
            heads.probabilities(probabilities, &logits, q, k, part)?;
            heads.correlate(heads.of_part(&dp, part)?, grad, v, part, 1.0)?;
            let [p, dp, of_logits] = [&p, &dp, &ds].map(|scores| machine.pointer(scores));
            let arguments = [p?, dp?, of_logits?, int(keys)?, Argument::Float(factor)];
            machine.launch("softmax_gradient", q.dtype(), grid([heads.heads * part.rows, 1, 1])?, &arguments)?;
            let of_logits = heads.of_part(&ds, part)?;
            let by_keys = [part.rows, keys, size];
            let output = heads.queries(&gq, part)?;
            heads.multiply(Product::new(output, of_logits, heads.keys(k, part)?, by_keys).scaled(scale))?;
            let (by_rows, again) = ([keys, part.rows, size], part.first > 0);
            let (output, right) = (heads.keys(&gk, part)?, heads.queries(q, part)?);
            let product = Product::new(output, of_logits.transposed(), right, by_rows);
            heads.multiply(product.scaled(scale).accumulated(again))?;
            let (output, right) = (heads.keys(&gv, part)?, heads.queries(grad, part)?);
            heads.multiply(Product::new(output, probabilities.transposed(), right, by_rows).accumulated(again))?;
        }
        Ok(vec![gq, gk.to_dtype(k.dtype())?, gv.to_dtype(v.dtype())?])
    }
}
