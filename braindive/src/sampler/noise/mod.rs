//! The starting latents of a seed, computed on the host, so that a seed names the same latents on every machine and device.

pub(crate) mod torch_cpu;
pub(crate) mod torch_cuda;

use candle_core::{Device, Result, Tensor};

/// Whose sequence of standard normal numbers a seed names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NoiseLayout {
    /// `torch.randn` after `torch.Generator("cuda").manual_seed(seed)`, as the authors' code draws it. A GPU with fewer
    /// resident threads than there are elements (4·height·width) gives its threads several of them, and lays larger tensors
    /// out in another way than this one, which is the same for all sizes and machines. A V100 has 163,840 threads, enough
    /// for images of 1,616 × 1,616 pixels; a T4 has 40,960, enough for 808 × 808.
    #[default]
    TorchCuda,
    /// `torch.randn` after `torch.Generator("cpu").manual_seed(seed)`, in f32.
    TorchCpu,
}

/// Standard normal latents `[1, 4, height, width]` in f32; `height` and `width` are those of the latents, not of the image.
///
/// # Errors
/// [`NoiseLayout::TorchCpu`] draws tensors of fewer than 16 elements in another way, which is not implemented.
pub fn starting_latents(
    layout: NoiseLayout,
    seed: u64,
    height: usize,
    width: usize,
    device: &Device,
) -> Result<Tensor> {
    let elements = 4 * height * width;
    let latents = match layout {
        NoiseLayout::TorchCuda => {
            (0..elements as u64).map(|index| torch_cuda::standard_normal(seed, index) as f32).collect()
        }
        NoiseLayout::TorchCpu => torch_cpu::standard_normals(seed, elements)?,
    };
    Tensor::from_vec(latents, (1, 4, height, width), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latents_are_laid_out_channel_by_channel_row_by_row() {
        let element = |layout| {
            let latents = starting_latents(layout, 42, 3, 5, &Device::Cpu).unwrap();
            assert_eq!(latents.dims(), [1, 4, 3, 5]);
            latents.get(0).unwrap().get(2).unwrap().get(1).unwrap().get(4).unwrap().to_scalar::<f32>().unwrap()
        };
        let index = 2 * 15 + 5 + 4;
        assert_eq!(element(NoiseLayout::TorchCuda), torch_cuda::standard_normal(42, index as u64) as f32);
        assert_eq!(element(NoiseLayout::TorchCpu), torch_cpu::standard_normals(42, 60).unwrap()[index]);
    }
}
