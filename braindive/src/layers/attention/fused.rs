//! Launches of the kernels for heads of 64 features in half precision (`attention.cuh`).

use super::Attention;
use crate::layers::machine::{Machine, int};
use candle_core::{DType, Result, Shape, Tensor, bail};
use gpu::{Argument, Grid};

/// Features of a head.
const SIZE: usize = 64;
/// Queries or keys of a block, and its threads.
const TILE: usize = 64;
const THREADS: u32 = 128;

/// Whether there are kernels for this.
pub(super) fn serves(attention: &Attention, q: &Tensor) -> bool {
    let is_half = matches!(q.dtype(), DType::F16 | DType::BF16);
    let width = q.dims().last().copied().unwrap_or(0);
    is_half && attention.mask.is_none() && width == SIZE * attention.heads
}

/// [ceil(n / 64), heads, batch] blocks.
fn tiles(n: usize, heads: usize, batch: usize, threads: u32) -> Result<Grid> {
    let blocks = [n.div_ceil(TILE), heads, batch].map(u32::try_from);
    let [Ok(x), Ok(y), Ok(z)] = blocks else {
        bail!("attention over {n} tokens of {batch} images is too large for a kernel")
    };
    Ok(Grid { blocks: [x, y, z], threads })
}

/// y, and the logarithms of the queries' sums of exponentials: [batch, heads, queries], f32.
pub(super) fn forward(
    attention: &Attention,
    machine: &dyn Machine,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
) -> Result<Vec<Tensor>> {
    let g = attention.geometry(q.dims(), k.dims())?;
    let (y, statistics) =
        (machine.like(q)?, machine.empty(Shape::from((g.batch, attention.heads, g.queries)), DType::F32)?);
    let mut arguments = Vec::new();
    for tensor in [&y, &statistics, q, k, v] {
        arguments.push(machine.pointer(tensor)?);
    }
    arguments.extend([int(attention.heads)?, int(g.queries)?, int(g.keys)?]);
    let grid = tiles(g.queries, attention.heads, g.batch, THREADS)?;
    machine.launch("attention_forward", q.dtype(), grid, &arguments)?;
    Ok(vec![y, statistics])
}

/// The gradients of q, k and v; `inputs`: q, k, v, y and the gradient of y.
pub(super) fn backward(
    attention: &Attention,
    machine: &dyn Machine,
    inputs: &[&Tensor],
    statistics: &Tensor,
) -> Result<Vec<Tensor>> {
    let [q, k, v, y, grad] = *inputs else { bail!("the gradient of attention takes q, k, v, y and gy") };
    let g = attention.geometry(q.dims(), k.dims())?;
    let heads = attention.heads;
    let correlations = machine.empty(Shape::from((g.batch, heads, g.queries)), DType::F32)?;
    let ranges = machine.empty(Shape::from((g.batch, heads)), DType::F32)?;
    let launch = |kernel: &'static str, tensors: &[&Tensor], grid: Grid| {
        let mut arguments = tensors.iter().map(|tensor| machine.pointer(tensor)).collect::<Result<Vec<Argument>>>()?;
        arguments.extend([int(heads)?, int(g.queries)?, int(g.keys)?]);
        machine.launch(kernel, q.dtype(), grid, &arguments)
    };
    // A block for every head.
    let of_heads = Grid { blocks: [heads as u32, g.batch as u32, 1], threads: 256 };
    launch("attention_correlations", &[&correlations, &ranges, y, grad, v], of_heads)?;
    let gq = machine.like(q)?;
    let by_queries = tiles(g.queries, heads, g.batch, THREADS)?;
    launch("attention_backward_q", &[&gq, q, k, v, grad, statistics, &correlations, &ranges], by_queries)?;
    let (gk, gv) = (machine.like(k)?, machine.like(v)?);
    let by_keys = tiles(g.keys, heads, g.batch, THREADS)?;
    launch("attention_backward_kv", &[&gk, &gv, q, k, v, grad, statistics, &correlations, &ranges], by_keys)?;
    Ok(vec![gq, gk, gv])
}
