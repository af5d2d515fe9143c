//! The elements of a file, converted to the type that computes; all cores take part.

use candle_core::{DType, Device, Result, Tensor, WithDType};
use checkpoint::Dtype;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

/// Elements per task: enough to be worth handing out, little enough to share evenly.
const TASK: usize = 1 << 16;

/// A tensor of `to` from `bytes`, little-endian elements of `from`; `None` if `from` or `to` is no floating-point type that
/// networks are stored or computed in.
pub(super) fn floats(bytes: &[u8], from: Dtype, shape: &[usize], to: DType) -> Option<Result<Tensor>> {
    Some(match (from, to) {
        (Dtype::F16, DType::F16) => each(bytes, shape, f16::from_le_bytes),
        (Dtype::F16, DType::BF16) => each(bytes, shape, |word| bf16::from_f32(f16::from_le_bytes(word).to_f32())),
        (Dtype::F16, DType::F32) => {
            in_blocks(bytes, shape, f16::from_le_bytes, |block, run: &mut [f32]| block.convert_to_f32_slice(run))
        }
        (Dtype::F16, DType::F64) => each(bytes, shape, |word| f16::from_le_bytes(word).to_f64()),
        (Dtype::BF16, DType::F16) => each(bytes, shape, |word| f16::from_f32(bf16::from_le_bytes(word).to_f32())),
        (Dtype::BF16, DType::BF16) => each(bytes, shape, bf16::from_le_bytes),
        (Dtype::BF16, DType::F32) => each(bytes, shape, |word| bf16::from_le_bytes(word).to_f32()),
        (Dtype::BF16, DType::F64) => each(bytes, shape, |word| bf16::from_le_bytes(word).to_f64()),
        (Dtype::F32, DType::F16) => {
            in_blocks(bytes, shape, f32::from_le_bytes, |block, run: &mut [f16]| run.convert_from_f32_slice(block))
        }
        (Dtype::F32, DType::BF16) => each(bytes, shape, |word| bf16::from_f32(f32::from_le_bytes(word))),
        (Dtype::F32, DType::F32) => each(bytes, shape, f32::from_le_bytes),
        (Dtype::F32, DType::F64) => each(bytes, shape, |word| f64::from(f32::from_le_bytes(word))),
        (Dtype::F64, DType::F16) => each(bytes, shape, |word| f16::from_f64(f64::from_le_bytes(word))),
        (Dtype::F64, DType::BF16) => each(bytes, shape, |word| bf16::from_f64(f64::from_le_bytes(word))),
        (Dtype::F64, DType::F32) => each(bytes, shape, |word| f64::from_le_bytes(word) as f32),
        (Dtype::F64, DType::F64) => each(bytes, shape, f64::from_le_bytes),
        _ => return None,
    })
}

/// Applies `value` to every word of `bytes`, which are as many as `shape` has elements.
fn each<const N: usize, T: WithDType>(
    bytes: &[u8],
    shape: &[usize],
    value: impl Fn([u8; N]) -> T + Sync,
) -> Result<Tensor> {
    fill(shape, |first, values| {
        let words = &bytes.as_chunks::<N>().0[first..];
        for (to, &word) in values.iter_mut().zip(words) {
            *to = value(word);
        }
    })
}

/// As [`each`], where the processor converts many elements at once: `convert` gets them in aligned blocks.
fn in_blocks<const N: usize, S: WithDType, T: WithDType>(
    bytes: &[u8],
    shape: &[usize],
    read: impl Fn([u8; N]) -> S + Sync,
    convert: impl Fn(&[S], &mut [T]) + Sync,
) -> Result<Tensor> {
    const BLOCK: usize = 512;
    fill(shape, |first, values| {
        let words = &bytes.as_chunks::<N>().0[first..];
        let mut block = [S::zero(); BLOCK];
        for (run, words) in values.chunks_mut(BLOCK).zip(words.chunks(BLOCK)) {
            let block = &mut block[..run.len()];
            block.iter_mut().zip(words).for_each(|(to, &word)| *to = read(word));
            convert(block, run);
        }
    })
}

/// A tensor whose elements `write(i, run)` sets, run by run; `i` is the number of the run's first element, row by row.
pub(super) fn fill<T: WithDType>(shape: &[usize], write: impl Fn(usize, &mut [T]) + Sync) -> Result<Tensor> {
    let mut values = vec![T::zero(); shape.iter().product()];
    values.par_chunks_mut(TASK).enumerate().for_each(|(i, run)| write(i * TASK, run));
    Tensor::from_vec(values, shape, &Device::Cpu)
}
