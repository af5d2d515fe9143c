//! Linear layers by one matrix product.

use super::{InputGradient, Linear, replace_width};
use crate::layers::machine::{Launch, Machine, Operand, Product, of_type};
use crate::layers::sum::add_in_place;
use candle_core::{Result, Tensor};

impl Launch for Linear {
    fn launch(&self, machine: &dyn Machine, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let (outputs, features) = self.weight.dims2()?;
        let weight = of_type(&self.weight, inputs[0].dtype())?;
        let right = machine.operand(&weight, 0, features)?.transposed();
        let y = multiply_rows(machine, inputs[0], right, [features, outputs])?;
        if let Some(bias) = &self.bias {
            add_in_place(machine, &y, &of_type(bias, y.dtype())?, 1)?;
        }
        Ok(vec![y])
    }
}

impl Launch for InputGradient {
    fn launch(&self, machine: &dyn Machine, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let (outputs, features) = self.weight.dims2()?;
        let weight = of_type(&self.weight, inputs[0].dtype())?;
        let right = machine.operand(&weight, 0, features)?;
        Ok(vec![multiply_rows(machine, inputs[0], right, [outputs, features])?])
    }
}

/// Every row of `x`, `from` long, times `right` [from, to].
fn multiply_rows(machine: &dyn Machine, x: &Tensor, right: Operand, [from, to]: [usize; 2]) -> Result<Tensor> {
    let y = machine.empty(replace_width(x.dims(), from, to)?, x.dtype())?;
    let (left, output) = (machine.operand(x, 0, from)?, machine.operand(&y, 0, to)?);
    machine.multiply(&Product::new(output, left, right, [x.elem_count() / from, from, to]))?;
    Ok(y)
}
