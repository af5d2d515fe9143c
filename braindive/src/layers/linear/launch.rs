//! Linear layers by one matrix product.

use super::{InputGradient, Linear, replace_width};
use crate::layers::machine::{Launch, Machine, Product, of_type};
use crate::layers::sum::add_in_place;
use candle_core::{Result, Tensor};

impl Launch for Linear {
    fn launch(&self, machine: &dyn Machine, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let x = inputs[0];
        let (outputs, features) = self.weight.dims2()?;
        let y = machine.empty(replace_width(x.dims(), features, outputs)?, x.dtype())?;
        let weight = of_type(&self.weight, x.dtype())?;
        let (left, right) = (machine.operand(x, 0, features)?, machine.operand(&weight, 0, features)?.transposed());
        let extents = [x.elem_count() / features, features, outputs];
        machine.multiply(&Product::new(machine.operand(&y, 0, outputs)?, left, right, extents))?;
        if let Some(bias) = &self.bias {
            add_in_place(machine, &y, &of_type(bias, y.dtype())?, 1)?;
        }
        Ok(vec![y])
    }
}

impl Launch for InputGradient {
    fn launch(&self, machine: &dyn Machine, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let grad = inputs[0];
        let (outputs, features) = self.weight.dims2()?;
        let gx = machine.empty(replace_width(grad.dims(), outputs, features)?, grad.dtype())?;
        let weight = of_type(&self.weight, grad.dtype())?;
        let (left, right) = (machine.operand(grad, 0, outputs)?, machine.operand(&weight, 0, features)?);
        let extents = [grad.elem_count() / outputs, outputs, features];
        machine.multiply(&Product::new(machine.operand(&gx, 0, features)?, left, right, extents))?;
        Ok(vec![gx])
    }
}
