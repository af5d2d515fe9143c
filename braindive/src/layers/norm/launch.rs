//! Normalisation by launches: short rows by a block each, long ones in pieces.

use super::{InputGradient, Normalisation, Rows};
use crate::layers::machine::{Launch, Machine, grid, int, of_type};
use candle_core::{DType, Result, Shape, Tensor};
use gpu::Argument;

/// Elements of a piece, and of a row that is not divided.
const PIECE: usize = 1 << 14;
/// So many rows keep a GPU busy without being divided.
const ENOUGH_ROWS: usize = 256;

/// How many pieces rows fall into.
fn pieces(rows: usize, length: usize) -> usize {
    if rows >= ENOUGH_ROWS { 1 } else { length.div_ceil(PIECE) }
}

/// What all kernels take in the end.
struct Extents {
    rows: usize,
    of_row: Rows,
    arguments: [Argument; 3],
    eps: Argument,
    silu: Argument,
}

impl Normalisation {
    fn extents(&self, x: &Tensor) -> Result<Extents> {
        let of_row = self.rows(x.dims())?;
        Ok(Extents {
            rows: x.elem_count() / of_row.len(),
            of_row,
            arguments: [int(of_row.channels)?, int(of_row.inner)?, int(of_row.groups)?],
            eps: Argument::Float(self.eps as f32),
            silu: Argument::Int(self.silu.into()),
        })
    }
}

impl Extents {
    /// [rows, pieces, 2] floats, for what is known of every piece.
    fn of_pieces(&self, machine: &dyn Machine, pieces: usize) -> Result<Tensor> {
        machine.empty(Shape::from((self.rows, pieces, 2)), DType::F32)
    }

    fn moments(&self, machine: &dyn Machine, x: &Tensor, pieces: usize) -> Result<Tensor> {
        let moments = self.of_pieces(machine, pieces)?;
        let arguments = [machine.pointer(x)?, machine.pointer(&moments)?, int(self.of_row.len())?, int(PIECE)?];
        machine.launch("piece_moments", x.dtype(), grid([pieces, self.rows, 1])?, &arguments)?;
        Ok(moments)
    }
}

impl Launch for Normalisation {
    fn launch(&self, machine: &dyn Machine, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let x = inputs[0];
        let (weight, bias) = (of_type(&self.weight, x.dtype())?, of_type(&self.bias, x.dtype())?);
        let y = machine.like(x)?;
        let e = self.extents(x)?;
        let [px, pw, pb, py] = [x, &weight, &bias, &y].map(|tensor| machine.pointer(tensor));
        let (px, pw, pb, py, [channels, inner, groups]) = (px?, pw?, pb?, py?, e.arguments);
        match pieces(e.rows, e.of_row.len()) {
            1 => {
                let arguments = [px, pw, pb, py, channels, inner, groups, e.eps, e.silu];
                machine.launch("normalise_rows", x.dtype(), grid([e.rows, 1, 1])?, &arguments)?;
            }
            pieces => {
                let moments = e.moments(machine, x, pieces)?;
                let pm = machine.pointer(&moments)?;
                let arguments = [px, pw, pb, pm, py, channels, inner, groups, int(PIECE)?, e.eps, e.silu];
                machine.launch("normalise_pieces", x.dtype(), grid([pieces, e.rows, 1])?, &arguments)?;
            }
        }
        Ok(vec![y])
    }
}

impl Launch for InputGradient {
    fn launch(&self, machine: &dyn Machine, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let (x, grad) = (inputs[0], inputs[1]);
        let (weight, bias) = (of_type(&self.0.weight, x.dtype())?, of_type(&self.0.bias, x.dtype())?);
        let gx = machine.like(x)?;
        let e = self.0.extents(x)?;
        let [px, pw, pb, pg, pgx] = [x, &weight, &bias, grad, &gx].map(|tensor| machine.pointer(tensor));
        let (px, pw, pb, pg, pgx, [channels, inner, groups]) = (px?, pw?, pb?, pg?, pgx?, e.arguments);
        match pieces(e.rows, e.of_row.len()) {
            1 => {
                let arguments = [px, pw, pb, pg, pgx, channels, inner, groups, e.eps, e.silu];
                machine.launch("normalise_rows_gradient", x.dtype(), grid([e.rows, 1, 1])?, &arguments)?;
            }
            pieces => {
                let (moments, sums) = (e.moments(machine, x, pieces)?, e.of_pieces(machine, pieces)?);
                let (pm, ps, piece) = (machine.pointer(&moments)?, machine.pointer(&sums)?, int(PIECE)?);
                let grid = grid([pieces, e.rows, 1])?;
                let arguments = [px, pw, pb, pg, pm, ps, channels, inner, groups, piece, e.eps, e.silu];
                machine.launch("piece_gradient_sums", x.dtype(), grid, &arguments)?;
                let arguments = [px, pw, pb, pg, pm, ps, pgx, channels, inner, groups, piece, e.eps, e.silu];
                machine.launch("normalise_pieces_gradient", x.dtype(), grid, &arguments)?;
            }
        }
        Ok(vec![gx])
    }
}
