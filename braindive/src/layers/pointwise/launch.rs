//! Functions of single elements by launches.

use super::{Activation, Geglu, GegluGradient, Pointwise, PointwiseGradient, gated_shape};
use crate::layers::machine::{Launch, Machine, for_each_element, int, long};
use candle_core::{Result, Tensor};
use gpu::Argument;

impl Pointwise {
    /// As in `pointwise.cuh`.
    fn number(self) -> Argument {
        Argument::Int(match self {
            Self::Activation(Activation::Silu) => 0,
            Self::Activation(Activation::Gelu) => 1,
            Self::Activation(Activation::QuickGelu) => 2,
            Self::ClampUnit => 3,
        })
    }
}

impl Launch for Pointwise {
    fn launch(&self, machine: &dyn Machine, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let (x, y) = (inputs[0], machine.like(inputs[0])?);
        let arguments = [machine.pointer(x)?, machine.pointer(&y)?, long(x.elem_count()), self.number()];
        machine.launch("pointwise", x.dtype(), for_each_element(x.elem_count())?, &arguments)?;
        Ok(vec![y])
    }
}

impl Launch for PointwiseGradient {
    fn launch(&self, machine: &dyn Machine, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let (x, grad, gx) = (inputs[0], inputs[1], machine.like(inputs[0])?);
        let (count, function) = (long(x.elem_count()), self.0.number());
        let arguments = [machine.pointer(x)?, machine.pointer(grad)?, machine.pointer(&gx)?, count, function];
        machine.launch("pointwise_gradient", x.dtype(), for_each_element(x.elem_count())?, &arguments)?;
        Ok(vec![gx])
    }
}

impl Launch for Geglu {
    fn launch(&self, machine: &dyn Machine, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let x = inputs[0];
        let y = machine.empty(gated_shape(x.dims())?, x.dtype())?;
        let half = int(x.dims().last().map_or(0, |width| width / 2))?;
        let arguments = [machine.pointer(x)?, machine.pointer(&y)?, long(y.elem_count()), half];
        machine.launch("geglu", x.dtype(), for_each_element(y.elem_count())?, &arguments)?;
        Ok(vec![y])
    }
}

impl Launch for GegluGradient {
    fn launch(&self, machine: &dyn Machine, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let (x, grad, gx) = (inputs[0], inputs[1], machine.like(inputs[0])?);
        let (count, half) = (long(grad.elem_count()), int(grad.dims().last().copied().unwrap_or(0))?);
        let arguments = [machine.pointer(x)?, machine.pointer(grad)?, machine.pointer(&gx)?, count, half];
        machine.launch("geglu_gradient", x.dtype(), for_each_element(grad.elem_count())?, &arguments)?;
        Ok(vec![gx])
    }
}
