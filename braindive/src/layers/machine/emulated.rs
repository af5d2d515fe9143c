//! A machine whose memory is the CPU's: kernels are emulated thread by thread, products computed in f32.

use super::{Machine, Operand, Product};
use crate::layers::gemm::{Matrix, multiply};
use candle_core::{DType, Result, Shape, Storage, Tensor, bail};
use gpu::{Argument, Element, Grid};
use half::{bf16, f16};
use std::cell::Cell;

thread_local! {
    static ENTERED: Cell<bool> = const { Cell::new(false) };
    static LAUNCHES: Cell<usize> = const { Cell::new(0) };
}

/// Kernels that this thread has launched.
pub(crate) fn launches() -> usize {
    LAUNCHES.get()
}

/// Runs `body` with all layers of this thread emulated: they launch their kernels, on tensors of the CPU.
pub(crate) fn emulate<R>(body: impl FnOnce() -> R) -> R {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            ENTERED.set(false);
        }
    }
    ENTERED.set(true);
    let _leave = Leave;
    body()
}

/// Whether layers of this thread are emulated.
pub(crate) fn entered() -> bool {
    ENTERED.get()
}

#[derive(Debug)]
pub(crate) struct Emulated;

/// Makes reads of elements that nobody wrote visible.
const UNDEFINED: f64 = f64::NAN;

impl Machine for Emulated {
    fn empty(&self, shape: Shape, dtype: DType) -> Result<Tensor> {
        Tensor::full(UNDEFINED, shape, &candle_core::Device::Cpu)?.to_dtype(dtype)
    }

    /// So few that layers work through several pieces, and that some fit into one.
    fn scratch_elements(&self) -> usize {
        1 << 12
    }

    fn address(&self, tensor: &Tensor) -> Result<u64> {
        let (storage, layout) = tensor.storage_and_layout();
        let Some((begin, _)) = layout.contiguous_offsets() else { bail!("a kernel was given a strided tensor") };
        let Storage::Cpu(storage) = &*storage else { bail!("an emulated kernel was given a tensor of a GPU") };
        let start = match tensor.dtype() {
            DType::F32 => storage.as_slice::<f32>()?.as_ptr() as u64,
            DType::F16 => storage.as_slice::<f16>()?.as_ptr() as u64,
            DType::BF16 => storage.as_slice::<bf16>()?.as_ptr() as u64,
            other => bail!("an emulated kernel was given {other:?}"),
        };
        Ok(start + (begin * tensor.dtype().size_in_bytes()) as u64)
    }

    fn launch(&self, kernel: &'static str, element: DType, grid: Grid, arguments: &[Argument]) -> Result<()> {
        LAUNCHES.set(LAUNCHES.get() + 1);
        let element = match element {
            DType::F32 => Element::F32,
            DType::F16 => Element::F16,
            _ => Element::Bf16,
        };
        // SAFETY: the addresses are those of tensors that the layer holds, and it keeps to their extents.
        match unsafe { gpu::emulation::launch(element, kernel, grid, arguments) } {
            Ok(()) => Ok(()),
            Err(error) => bail!("emulating {kernel}: {error}"),
        }
    }

    fn multiply(&self, p: &Product) -> Result<()> {
        assert!(!p.output.transposed, "a product's output is not transposed");
        for i in 0..p.batch {
            let (left, right) = (read(p.left, i, p.rows, p.inner), read(p.right, i, p.inner, p.columns));
            let mut output = vec![0f32; p.rows * p.columns];
            let right = Matrix::new(&right, p.inner, p.columns, p.columns);
            multiply(&mut output, p.columns, false, Matrix::new(&left, p.rows, p.inner, p.inner), right);
            let before = p.accumulate.then(|| read(p.output, i, p.rows, p.columns));
            for (j, value) in output.iter().enumerate() {
                let sum = p.scale * value + before.as_ref().map_or(0.0, |before| before[j]);
                let at = i * p.output.batch_stride + j / p.columns * p.output.stride + j % p.columns;
                write(p.output, at, sum);
            }
        }
        Ok(())
    }
}

/// Matrix `i` of a batch as the product takes it, [rows, columns], in f32.
fn read(operand: Operand, i: usize, rows: usize, columns: usize) -> Vec<f32> {
    let at = |row: usize, column: usize| {
        let (row, column) = if operand.transposed { (column, row) } else { (row, column) };
        element(operand, i * operand.batch_stride + row * operand.stride + column)
    };
    (0..rows * columns).map(|j| at(j / columns, j % columns)).collect()
}

fn element(operand: Operand, at: usize) -> f32 {
    // SAFETY: a layer's matrices lie in tensors that it holds.
    unsafe {
        match operand.dtype {
            DType::F32 => *(operand.address as *const f32).add(at),
            DType::F16 => (*(operand.address as *const f16).add(at)).to_f32(),
            _ => (*(operand.address as *const bf16).add(at)).to_f32(),
        }
    }
}

fn write(operand: Operand, at: usize, value: f32) {
    // SAFETY: as in `element`; what is written is a tensor that `empty` made for it.
    unsafe {
        match operand.dtype {
            DType::F32 => *(operand.address as *mut f32).add(at) = value,
            DType::F16 => *(operand.address as *mut f16).add(at) = f16::from_f32(value),
            _ => *(operand.address as *mut bf16).add(at) = bf16::from_f32(value),
        }
    }
}
