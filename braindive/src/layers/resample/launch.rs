//! Changing the size of maps by launches.

use super::{Bilinear, BilinearGradient, GaussianBlur, Nearest2x, Nearest2xGradient, REACH, planes, with_size};
use crate::layers::machine::{Launch, Machine, for_each_element, int, long};
use candle_core::{Result, Tensor, bail};
use gpu::Argument;

/// From `from` to a new tensor `to`, a thread for each of its elements.
fn launch(
    machine: &dyn Machine,
    kernel: &'static str,
    from: &Tensor,
    to: Tensor,
    extents: &[Argument],
) -> Result<Vec<Tensor>> {
    let mut arguments = vec![machine.pointer(from)?, machine.pointer(&to)?, long(to.elem_count())];
    arguments.extend(extents);
    machine.launch(kernel, to.dtype(), for_each_element(to.elem_count())?, &arguments)?;
    Ok(vec![to])
}

impl Launch for Nearest2x {
    fn launch(&self, machine: &dyn Machine, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let x = inputs[0];
        let (height, width) = planes(x.dims())?;
        let y = machine.empty(with_size(x.dims(), 2 * height, 2 * width), x.dtype())?;
        launch(machine, "upsample_nearest_2x", x, y, &[int(height)?, int(width)?])
    }
}

impl Launch for Nearest2xGradient {
    fn launch(&self, machine: &dyn Machine, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let grad = inputs[0];
        let (height, width) = planes(grad.dims())?;
        let (height, width) = (height / 2, width / 2);
        let gx = machine.empty(with_size(grad.dims(), height, width), grad.dtype())?;
        launch(machine, "upsample_nearest_2x_gradient", grad, gx, &[int(width)?])
    }
}

impl Bilinear {
    fn extents(&self) -> Result<[Argument; 4]> {
        Ok([int(self.from[0])?, int(self.from[1])?, int(self.to[0])?, int(self.to[1])?])
    }
}

impl Launch for Bilinear {
    fn launch(&self, machine: &dyn Machine, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let x = inputs[0];
        planes(x.dims())?;
        let y = machine.empty(with_size(x.dims(), self.to[0], self.to[1]), x.dtype())?;
        launch(machine, "resize_bilinear", x, y, &self.extents()?)
    }
}

impl Launch for BilinearGradient {
    fn launch(&self, machine: &dyn Machine, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let grad = inputs[0];
        let gx = machine.empty(with_size(grad.dims(), self.0.from[0], self.0.from[1]), grad.dtype())?;
        launch(machine, "resize_bilinear_gradient", grad, gx, &self.0.extents()?)
    }
}

impl Launch for GaussianBlur {
    fn launch(&self, machine: &dyn Machine, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let x = inputs[0];
        let (height, width) = planes(x.dims())?;
        if height.min(width) <= REACH {
            bail!("a map of {height}x{width} is too small to blur: its sides must be longer than {REACH}");
        }
        let taps = Self::kernel::<f32>();
        let mut extents = vec![int(height)?, int(width)?];
        extents.extend(taps[REACH..].iter().map(|&tap| Argument::Float(tap)));
        launch(machine, "gaussian_blur", x, machine.like(x)?, &extents)
    }
}
