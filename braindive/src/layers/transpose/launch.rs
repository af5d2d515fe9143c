//! Transposition by launches.

use super::{Transposition, transposed_shape};
use crate::layers::machine::{Launch, Machine, grid, int};
use candle_core::{D, Result, Tensor};

/// Side of a tile.
const TILE: usize = 32;

impl Launch for Transposition {
    fn launch(&self, machine: &dyn Machine, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let x = inputs[0];
        let y = machine.empty(transposed_shape(x.dims())?, x.dtype())?;
        let (rows, columns) = (x.dim(D::Minus2)?, x.dim(D::Minus1)?);
        let matrices = x.elem_count() / (rows * columns).max(1);
        let arguments = [machine.pointer(x)?, machine.pointer(&y)?, int(rows)?, int(columns)?];
        machine.launch(
            "transpose",
            x.dtype(),
            grid([columns.div_ceil(TILE), rows.div_ceil(TILE), matrices])?,
            &arguments,
        )?;
        Ok(vec![y])
    }
}
