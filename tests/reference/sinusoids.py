"""PyTorch's f32 sinusoids of the diffusion time for the case small_s5: sin and cos of PyTorch (MKL) round otherwise than to the
nearest f32 in one of twenty arguments, and its f64 run is computed from them. Writes sinusoids.json beside this file."""
import json, math, pathlib
import torch

WIDTH, TIMESTEPS = 24, [999, 799, 599, 400, 200]
exponents = -math.log(10000) * torch.arange(WIDTH // 2, dtype=torch.float32) / (WIDTH // 2)
table = {}
for t in TIMESTEPS:
    angles = torch.tensor([t]).float()[:, None] * torch.exp(exponents)[None, :]
    # flip_sin_to_cos: the cosines come first
    table[t] = torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)[0].double().tolist()
pathlib.Path(__file__).with_name("sinusoids.json").write_text(json.dumps(table) + "\n")
