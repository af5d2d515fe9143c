"""Makes fit.json and augment.safetensors beside it: what PyTorch draws for a training run, and augmented images.

    VENV/bin/python tests/reference/encoder/fit.py

The interpreter needs torch, numpy, scikit-image and safetensors."""
import json, math, pathlib
import numpy as np, torch
from safetensors.torch import save_file
from skimage.transform import resize

HERE = pathlib.Path(__file__).parent
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def order(seed, n):
    """As torch.utils.data.DistributedSampler shuffles on one replica."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()


def linear(seed, features, voxels):
    torch.manual_seed(seed)
    layer = torch.nn.Linear(features, voxels)
    with torch.no_grad():
        layer.weight.mul_(0.5)
    at = [0, 1, features, features * voxels // 2, features * voxels - 1]
    weight, bias = layer.weight.detach().flatten(), layer.bias.detach()
    return {"seed": seed, "features": features, "voxels": voxels, "at": at, "weight": weight[at].tolist(), "bias": bias.tolist(),
            "weight_sum": weight.double().sum().item(), "weight_squares": weight.double().square().sum().item()}


def augment(images, size, brightness, shift, noise):
    """Resize, brightness, normalise, one shift for the batch with replicated edges, noise: in this order, float64."""
    out = []
    for image, scale in zip(images, brightness):
        x = resize(image.astype(np.float64), (size, size), order=1, preserve_range=True, anti_aliasing=True)
        x = x * scale / 255
        out.append(((x - np.array(MEAN)) / np.array(STD)).transpose(2, 0, 1))
    x = torch.nn.functional.pad(torch.tensor(np.stack(out)), (4, 4, 4, 4), mode="replicate")
    dx, dy = shift
    return x[:, :, 4 + dy : 4 + dy + size, 4 + dx : 4 + dx + size] + noise


def main():
    orders = [{"seed": s, "n": n, "order": order(s, n)} for s, n in ((1, 1), (1, 2), (7, 64), (100, 1000))]
    long = order(1, 9093)
    orders_long = {"seed": 1, "n": 9093, "first": long[:8], "last": long[-8:]}
    rates = [3e-4 * 0.5 ** (e / 100) for e in range(1, 101)]
    facts = {"orders": orders, "long": orders_long, "linear": [linear(0, 48, 60), linear(5, 512, 700)], "learning_rates": rates}
    (HERE / "fit.json").write_text(json.dumps(facts))
    g = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (3, 32, 32, 3), generator=g, dtype=torch.uint8)
    brightness = torch.tensor([0.95, 1.0, 1.0437])
    noise = 0.05 * torch.randn(3, 3, 28, 28, generator=g, dtype=torch.float64)
    tensors = {"images": images, "brightness": brightness, "noise": noise.float()}
    for name, shift in (("a", (-4, 3)), ("b", (0, 0)), ("c", (2, -4))):
        tensors[f"shift_{name}"] = torch.tensor(shift)
        tensors[f"augmented_{name}"] = augment(images.numpy(), 28, brightness.double().numpy(), shift, noise).float().contiguous()
    save_file(tensors, HERE / "augment.safetensors")


main()
