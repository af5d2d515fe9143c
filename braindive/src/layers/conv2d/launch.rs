//! Convolutions by a machine's own, or as matrix products over patches that are made a piece at a time.
//!
//! The output is W · patches, of some output pixels at a time. The input's gradient is Wᵀ · gradient, the patches' gradient, of some
//! input channels at a time, which every pixel then adds up from its places: no weight is turned or copied.

use super::{Conv2d, Geometry, InputGradient};
use crate::layers::machine::{Convolution, Launch, Machine, Operand, Product, THREADS, grid, ints, of_type};
use crate::layers::sum::add_in_place;
use candle_core::{Result, Shape, Tensor};
use gpu::Argument;

impl Launch for Conv2d {
    fn launch(&self, machine: &dyn Machine, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let x = inputs[0];
        let g = self.geometry(x.dims())?;
        let weight = of_type(&self.weight, x.dtype())?;
        let y = machine.empty(Shape::from((x.dims()[0], g.outputs, g.out_height, g.out_width)), x.dtype())?;
        let (stride, padding) = (self.stride, self.padding);
        let whole = Convolution { weight: &weight, input: x, output: &y, stride, padding, adjoint: false };
        if !machine.convolve(&whole)? {
            if g.is_pointwise() {
                g.multiply_pixels(machine, machine.operand(&weight, 0, g.inputs)?, x, &y)?
            } else {
                g.gather_by_product(machine, &weight, x, &y)?
            }
        }
        if let Some(bias) = &self.bias {
            add_in_place(machine, &y, &of_type(bias, y.dtype())?, g.out_pixels())?;
        }
        Ok(vec![y])
    }
}

impl Launch for InputGradient {
    fn launch(&self, machine: &dyn Machine, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let (g, grad) = (self.geometry, inputs[0]);
        let weight = of_type(&self.weight, grad.dtype())?;
        let gx = machine.empty(Shape::from((grad.dims()[0], g.inputs, g.height, g.width)), grad.dtype())?;
        let (stride, padding) = (g.stride, g.padding);
        let whole = Convolution { weight: &weight, input: &gx, output: grad, stride, padding, adjoint: true };
        if !machine.convolve(&whole)? {
            if g.is_pointwise() {
                g.multiply_pixels(machine, machine.operand(&weight, 0, g.inputs)?.transposed(), grad, &gx)?;
            } else {
                g.collect_by_product(machine, &weight, grad, &gx)?;
            }
        }
        Ok(vec![gx])
    }
}

impl Geometry {
    /// to = left · from at every pixel. `left`: W, or for the adjoint Wᵀ.
    fn multiply_pixels(&self, machine: &dyn Machine, left: Operand, from: &Tensor, to: &Tensor) -> Result<()> {
        let (pixels, inner, rows) = (self.pixels(), from.dim(1)?, to.dim(1)?);
        let right = machine.operand(from, 0, pixels)?.batched(inner * pixels);
        let output = machine.operand(to, 0, pixels)?.batched(rows * pixels);
        machine.multiply(&Product::new(output, left, right, [rows, inner, pixels]).batched(from.dim(0)?))
    }

    fn gather_by_product(&self, machine: &dyn Machine, weight: &Tensor, x: &Tensor, y: &Tensor) -> Result<()> {
        let (batch, taps, out_pixels) = (x.dim(0)?, self.taps(), self.out_pixels());
        let images = (machine.scratch_elements() / (taps * out_pixels)).clamp(1, batch);
        let at_once = (machine.scratch_elements() / taps).clamp(1, out_pixels);
        let patches = machine.empty(Shape::from((images, taps, at_once)), x.dtype())?;
        for first_image in (0..batch).step_by(images) {
            let images = images.min(batch - first_image);
            for first in (0..out_pixels).step_by(at_once) {
                let count = at_once.min(out_pixels - first);
                let image = machine.operand(x, first_image * self.inputs * self.pixels(), self.pixels())?;
                let mut arguments = vec![Argument::Pointer(image.address), machine.pointer(&patches)?];
                arguments.extend(ints([self.height, self.width, self.out_width, self.inputs])?);
                arguments.extend(ints([self.kernel, self.stride, self.padding, first, count])?);
                machine.launch(
                    "gather_patches",
                    x.dtype(),
                    grid([count.div_ceil(THREADS), taps, images])?,
                    &arguments,
                )?;
                let right = machine.operand(&patches, 0, count)?.batched(taps * count);
                let start = first_image * self.outputs * out_pixels + first;
                let output = machine.operand(y, start, out_pixels)?.batched(self.outputs * out_pixels);
                let left = machine.operand(weight, 0, taps)?;
                machine.multiply(&Product::new(output, left, right, [self.outputs, taps, count]).batched(images))?;
            }
        }
        Ok(())
    }

    fn collect_by_product(&self, machine: &dyn Machine, weight: &Tensor, grad: &Tensor, gx: &Tensor) -> Result<()> {
        let (batch, out_pixels, window) = (grad.dim(0)?, self.out_pixels(), self.kernel * self.kernel);
        let of_channel = window * out_pixels;
        let images = (machine.scratch_elements() / (self.inputs * of_channel)).clamp(1, batch);
        let at_once = (machine.scratch_elements() / of_channel).clamp(1, self.inputs);
        let patches = machine.empty(Shape::from((images, at_once, of_channel)), grad.dtype())?;
        for first_image in (0..batch).step_by(images) {
            let images = images.min(batch - first_image);
            for first in (0..self.inputs).step_by(at_once) {
                let channels = at_once.min(self.inputs - first);
                let left = machine.operand(weight, first * window, self.taps())?.transposed();
                let right = machine.operand(grad, first_image * self.outputs * out_pixels, out_pixels)?;
                let right = right.batched(self.outputs * out_pixels);
                let output = machine.operand(&patches, 0, out_pixels)?.batched(channels * of_channel);
                let extents = [channels * window, self.outputs, out_pixels];
                machine.multiply(&Product::new(output, left, right, extents).batched(images))?;
                let start = (first_image * self.inputs + first) * self.pixels();
                let output = machine.operand(gx, start, self.pixels())?;
                let mut arguments = vec![machine.pointer(&patches)?, Argument::Pointer(output.address)];
                arguments.extend(ints([self.height, self.width, self.out_height, self.out_width])?);
                arguments.extend(ints([self.inputs, self.kernel, self.stride, self.padding])?);
                let grid = grid([self.pixels().div_ceil(THREADS), channels, images])?;
                machine.launch("collect_patches", grad.dtype(), grid, &arguments)?;
            }
        }
        Ok(())
    }
}
