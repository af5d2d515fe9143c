//! Sums by launches.

use super::{Sum, repeated_elements};
use crate::layers::machine::{Launch, Machine, for_each_element, long};
use candle_core::{Result, Tensor, bail};

impl Launch for Sum {
    fn launch(&self, machine: &dyn Machine, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let (x, y) = (inputs[0], inputs[1]);
        let Some(block) = repeated_elements(x.dims(), y.dims()) else {
            bail!("a tensor of shape {:?} cannot be added to one of shape {:?}", y.dims(), x.dims());
        };
        let sum = machine.like(x)?;
        launch_sum(machine, x, y, &sum, block)?;
        Ok(vec![sum])
    }
}

/// x ← x + y, of one type; `block` neighbours in x share an element of y.
pub(in crate::layers) fn add_in_place(machine: &dyn Machine, x: &Tensor, y: &Tensor, block: usize) -> Result<()> {
    launch_sum(machine, x, y, x, block)
}

fn launch_sum(machine: &dyn Machine, x: &Tensor, y: &Tensor, sum: &Tensor, block: usize) -> Result<()> {
    let count = x.elem_count();
    let [px, py, ps] = [x, y, sum].map(|tensor| machine.pointer(tensor));
    let arguments = [px?, py?, ps?, long(count), long(block), long(y.elem_count())];
    machine.launch("sum", x.dtype(), for_each_element(count)?, &arguments)
}
