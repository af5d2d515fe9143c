"""PyTorch's side of measure.py, one task a process: reads a JSON object from standard input, prints one as its last line.

    peer.py facts|noise|random_bundle|trace|speed --device cuda:0 < TASK.json

The networks are diffusers' where it can be imported, else those of networks.py, which are the same operations; the image tower is always
networks.py's. A guided step is that of the paper's authors: UNet, decoder and latents in half precision, resizing, image tower and head in
single; attention by `scaled_dot_product_attention`, but for the one layer whose probabilities self-attention guidance needs."""
import argparse, json, math, pathlib, statistics, sys, time

import numpy
import torch
import torch.nn.functional as F

import networks, tensors

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
DTYPES = {"single": torch.float32, "half": torch.float16, "bfloat16": torch.bfloat16}
PROMPT_TOKENS = 77


def diffusers_or_none():
    try:
        import diffusers

        diffusers.UNet2DConditionModel, diffusers.AutoencoderKL
        return diffusers
    except Exception:  # not there, or at odds with the packages beside it
        return None


def read_json(path):
    return json.loads(pathlib.Path(path).read_text())


def configurations(folder):
    """Of UNet, decoder and image tower, in a bundle or, without one, of Stable Diffusion 2.1-base and ViT-B/16."""
    if folder:
        bundle = pathlib.Path(folder)
        paths = [bundle / "sd/unet/config.json", bundle / "sd/vae/config.json", bundle / "clip/open_clip_config.json"]
    else:
        base = REPOSITORY / "worker/src/bench/sd21_base"
        paths = [base / "unet.json", base / "vae.json", base / "vit_b_16.json"]
    unet, vae, clip = map(read_json, paths)
    return unet, vae, clip["model_cfg"]


class KeepProbabilities:
    """diffusers' attention processor for the layer that self-attention guidance looks at."""

    probabilities = None

    def __call__(self, attention, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        split = lambda projected: projected.unflatten(2, (attention.heads, -1)).transpose(1, 2)
        q, k, v = (split(project(hidden_states)) for project in (attention.to_q, attention.to_k, attention.to_v))
        self.probabilities = torch.softmax(q @ k.transpose(2, 3) * attention.scale, dim=3)
        return attention.to_out[0]((self.probabilities @ v).transpose(1, 2).flatten(2))


class Peer:
    """Networks with random weights, and what a guided step does with them."""

    def __init__(self, configs, dtype, device, library=None):
        unet, vae, tower = configs
        self.dtype, self.device, self.context = dtype, device, unet["cross_attention_dim"]
        self.scaling, self.scale = vae.get("scaling_factor", 0.18215), 2 ** (len(vae["block_out_channels"]) - 1)
        with torch.device(device):
            torch.manual_seed(0)
            if library:
                self.unet, self.vae = library.UNet2DConditionModel.from_config(unet), library.AutoencoderKL.from_config(vae)
                self.vae.encoder = None
                self.watched = KeepProbabilities()
                self.middle(self.unet).set_processor(self.watched)
                self.predict = lambda x, t, prompt: self.unet(x, t, encoder_hidden_states=prompt).sample
                self.decode = lambda latents: self.vae.decode(latents / self.scaling).sample
            else:
                self.unet, self.vae = networks.Unet(unet), networks.VaeDecoder(vae)
                self.watched = self.middle(self.unet)
                self.watched.keep_probabilities = True
                self.predict = self.unet
                self.decode = lambda latents: self.vae(latents / self.scaling)
            self.tower = networks.ImageTower(tower)
            self.mean, self.std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        for network in (self.unet, self.vae):
            network.to(dtype)
        for network in (self.unet, self.vae, self.tower):
            network.requires_grad_(False).eval()

    @staticmethod
    def middle(unet):
        block = unet.mid_block
        attentions = block["attentions"] if isinstance(block, torch.nn.ModuleDict) else block.attentions
        return attentions[0].transformer_blocks[0].attn1

    def compile(self):
        self.unet.compile()
        self.vae.decoder.compile()

    def arrange(self, memory_format):
        for network in (self.unet, self.vae):
            network.to(memory_format=memory_format)

    def latents(self, batch, size):
        side = size // self.scale
        return torch.randn(batch, 4, side, side, device=self.device, dtype=self.dtype)

    def features(self, image):
        resized = F.interpolate(image.float(), size=(self.tower.size,) * 2, mode="bilinear", align_corners=False)
        return F.normalize(self.tower((resized - self.mean) / self.std), dim=1)

    def step(self, x, level, recipe, shared):
        """Noise prediction of a guided step at `level`, (timestep, ᾱ), and what it came from. `shared`: one forward pass serves
        self-attention guidance and the gradient; the authors run two."""
        timestep, alpha_bar = level
        a, s = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
        found, gamma, sag = {}, recipe["gamma"], recipe["sag_scale"]
        guided_x = x.detach().requires_grad_(gamma > 0)
        with torch.set_grad_enabled(shared and gamma > 0):
            first = self.predict(guided_x, timestep, recipe["prompt"])
        noise = found["noise_pred"] = first.detach()
        final = noise
        if sag > 0:
            with torch.no_grad():
                found["attn_colsum"] = self.watched.probabilities.detach().mean(1).sum(1)
                found["sag_mask"], degraded = self.degrade(x, noise, found["attn_colsum"], a, s)
                found["degraded_pred"] = self.predict(degraded, timestep, recipe["prompt"])
                final = noise + sag * (noise - found["degraded_pred"])
        if gamma > 0:
            second = first if shared else self.predict(guided_x, timestep, recipe["prompt"])
            found["pred_x0"] = (guided_x - s * second) / a
            found["blended"] = found["pred_x0"] * s + guided_x * (1 - s)
            image = (self.decode(found["blended"]) / 2 + 0.5).clamp(0, 1)
            activation = found["mean_activation"] = self.features(image) @ recipe["direction"] + recipe["offset"]
            (found["grad_latents"],) = torch.autograd.grad((gamma * activation).sum(), guided_x)
            final = final - s * found["grad_latents"]
        found["noise_pred_final"] = final
        return found

    def degrade(self, x, noise, column_sums, a, s):
        """Mask of the positions that are attended to more than on average, and latents blurred there."""
        height, width = x.shape[2:]
        down = math.isqrt(height * width // column_sums.shape[1])
        mask = (column_sums > 1.0).to(x.dtype).unflatten(1, (height // down, width // down))
        wide = F.interpolate(mask[:, None], size=(height, width), mode="nearest")
        x0 = (x - s * noise) / a
        offsets = torch.linspace(-4, 4, 9, device=x.device)
        bell = torch.exp(-0.5 * offsets**2)
        bell = (bell / bell.sum()).to(x.dtype)
        kernel = torch.outer(bell, bell).expand(x.shape[1], 1, 9, 9)
        blurred = F.conv2d(F.pad(x0, (4, 4, 4, 4), mode="reflect"), kernel, groups=x.shape[1])
        return mask, a * (blurred * wide + x0 * (1 - wide)) + s * noise


# ------------------------------------------------------------------------------------------------ what tasks are made of


def alpha_bars():
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float32) ** 2
    return torch.cumprod(1 - betas, dim=0)


def timesteps(steps):
    return numpy.round(numpy.linspace(0, 999, steps + 1))[::-1][:-1].astype(int).tolist()


class DpmSolver:
    """DPM-Solver++(2M), midpoint (Lu et al. 2022), in single precision."""

    def __init__(self, levels, last_alpha_bar):
        bars = [bar for _, bar in levels] + [last_alpha_bar]
        self.a, self.s, self.steps, self.to_zero = [math.sqrt(b) for b in bars], [math.sqrt(1 - b) for b in bars], len(levels), last_alpha_bar == 1
        self.half_log_snr = [math.log(a / s) if s else math.inf for a, s in zip(self.a, self.s)]
        self.before = None

    def step(self, i, noise, x):
        x0 = (x.float() - self.s[i] * noise.float()) / self.a[i]
        h = self.half_log_snr[i + 1] - self.half_log_snr[i]
        first_order = i == 0 or (i == self.steps - 1 and (self.to_zero or self.steps < 15))
        direction = x0 if first_order else x0 + 0.5 * h / (self.half_log_snr[i] - self.half_log_snr[i - 1]) * (x0 - self.before)
        self.before = x0
        return (self.s[i + 1] / self.s[i] * x.float() - self.a[i + 1] * math.expm1(-h) * direction).to(x.dtype)


def load(peer, models):
    """The weights of a request's models, into the networks of networks.py."""
    vae = tensors.read(models["diffusion"] / "vae/diffusion_pytorch_model.safetensors")
    published = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
    for old, new in published.items():
        vae = {name.replace(old, new) if ".attentions." in name else name: tensor for name, tensor in vae.items()}
    clip = tensors.read(models["backbone"] / "open_clip_model.safetensors")
    parts = [
        (peer.unet, tensors.read(models["diffusion"] / "unet/diffusion_pytorch_model.safetensors"), ""),
        (peer.vae, vae, ""),
        (peer.tower, clip, "visual."),
    ]
    for network, weights, prefix in parts:
        wanted = {name: weights[prefix + name] for name in network.state_dict()}
        network.load_state_dict(wanted)


# ------------------------------------------------------------------------------------------------ tasks


def facts(task, device):
    found = {"python": sys.version.split()[0], "torch": torch.__version__}
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        found |= {"card": card.name, "compute_capability": f"{card.major}.{card.minor}", "card_bytes": card.total_memory}
        found |= {"torch_cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return found


def philox_normals(seed, count):
    """The first normal of each Philox4x32-10 block with key `seed` and counter (0, 0, i, 0), as tests/reference/noise.json says."""
    low32 = numpy.uint64(0xFFFFFFFF)
    key = [numpy.uint64(seed & 0xFFFFFFFF), numpy.uint64(seed >> 32)]
    i = numpy.arange(count, dtype=numpy.uint64)
    counter = [numpy.zeros_like(i), numpy.zeros_like(i), i & low32, i >> numpy.uint64(32)]
    for _ in range(10):
        products = [numpy.uint64(0xD2511F53) * counter[0], numpy.uint64(0xCD9E8D57) * counter[2]]
        high0, high1 = (product >> numpy.uint64(32) for product in products)
        counter = [high1 ^ counter[1] ^ key[0], products[1] & low32, high0 ^ counter[3] ^ key[1], products[0] & low32]
        key = [(part + numpy.uint64(weyl)) & low32 for part, weyl in zip(key, (0x9E3779B9, 0xBB67AE85))]
    u, v = (counter[k].astype(numpy.float64) * 2.0**-32 + 2.0**-33 for k in (0, 1))
    return numpy.sqrt(-2 * numpy.log(u)) * numpy.sin(2 * math.pi * v)


def noise(task, device):
    """Writes the starting noise of every seed and shape: by the published formula and, on a GPU, by `torch.randn`."""
    found = {}
    for seed in task["seeds"]:
        for height, width in task["shapes"]:
            name, shape = f"{seed}/{height}x{width}", (1, 4, height, width)
            formula = philox_normals(seed, 4 * height * width).reshape(shape)
            found[f"formula/{name}"] = torch.from_numpy(formula).float()
            for kind in ("single", "half") if device.type == "cuda" else ():
                generator = torch.Generator(device).manual_seed(seed)
                found[f"torch_{kind}/{name}"] = torch.randn(shape, generator=generator, device=device, dtype=DTYPES[kind]).float()
    tensors.write(pathlib.Path(task["out"]), found)
    return {}


def random_bundle(task, device):
    """Writes UNet, decoder, image tower, head and text encoder with random weights in a bundle's layout, with the tokeniser and the
    probe of the bundle `like`: a model to compare results of at real sizes. Half precision holds all of them exactly."""
    configs, like, out = configurations(task["networks"]), pathlib.Path(task["like"]), pathlib.Path(task["out"])
    peer = Peer(configs, torch.float16, device)
    (out / "sd").mkdir(parents=True)
    for shared in ("sd/tokenizer", "sd/scheduler", "sd/model_index.json", "coca"):
        (out / shared).symlink_to(like / shared)
    unet, vae, tower = configs
    for name, config, network in (("unet", unet, peer.unet), ("vae", vae, peer.vae)):
        tensors.write(out / f"sd/{name}/diffusion_pytorch_model.safetensors", network.state_dict())
        (out / f"sd/{name}/config.json").write_text(json.dumps(config))
    visual = {f"visual.{name}": tensor.half() for name, tensor in peer.tower.state_dict().items()}
    tensors.write(out / "clip/open_clip_model.safetensors", visual)
    (out / "clip/open_clip_config.json").write_text(json.dumps({"model_cfg": tower, "preprocess_cfg": {"mean": MEAN, "std": STD}}))
    head = torch.randn(task["voxels"], tower["embed_dim"])
    tensors.write(out / "encoder/head.safetensors", {"weight": head, "bias": torch.zeros(task["voxels"])})
    text, width = read_json(like / "sd/text_encoder/config.json"), unet["cross_attention_dim"]
    shapes = tensors.read(like / "sd/text_encoder/model.safetensors")
    resize = lambda shape: [width if extent == text["hidden_size"] else extent for extent in shape]
    fill = lambda name, shape: torch.ones(shape) if "norm" in name and name.endswith("weight") else torch.randn(shape) * width**-0.5
    encoder = {name: fill(name, resize(tensor.shape)) for name, tensor in shapes.items()}
    tensors.write(out / "sd/text_encoder/model.safetensors", encoder)
    (out / "sd/text_encoder/config.json").write_text(json.dumps(text | {"hidden_size": width, "num_attention_heads": width // 16}))
    return {}


def trace(task, device):
    """Runs each request with PyTorch, from the prompt's embedding in a trace that there is, and writes what every step came to."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    for run in task["runs"]:
        request = read_json(run["request"])
        folder = pathlib.Path(run["request"]).parent
        models = {role: folder / path for role, path in request["models"].items()}
        bundle = models["diffusion"].parent
        peer = Peer(configurations(bundle), DTYPES[run["precision"]], device)
        load(peer, models)
        known = tensors.read(pathlib.Path(run["prompt_from"]))
        head = {name: tensor.to(device) for name, tensor in tensors.read(models["head"]).items()}
        voxels, denominator = request["objective"]["voxels"], request["objective"]["denominator"]
        recipe = {
            "gamma": request["gamma"],
            "sag_scale": request["sag_scale"],
            "prompt": known["prompt_embeds"].to(device, peer.dtype),
            "direction": head["weight"][voxels].sum(0) / denominator,
            "offset": head["bias"][voxels].sum() / denominator,
        }
        tensors.write(pathlib.Path(run["out"]), free_run(peer, recipe, request, known["step.latents_in"][:1].to(device, peer.dtype), head))
    return {}


def free_run(peer, recipe, request, x, head):
    bars = alpha_bars()
    levels = [(torch.tensor(t, device=x.device), float(bars[t])) for t in timesteps(request["steps"])]
    solver = DpmSolver(levels, 1.0 if request["final_sigma"] == "zero" else float(bars[0]))
    kept = {}
    for i, level in enumerate(levels):
        found = peer.step(x, level, recipe, shared=False)
        x = solver.step(i, found["noise_pred_final"], x)
        for name, tensor in (found | {"latents_out": x}).items():
            kept.setdefault(f"step.{name}", []).append(tensor.detach()[:1].float().cpu())
    with torch.no_grad():
        image = (peer.decode(x).float() / 2 + 0.5).clamp(0, 1)
        voxels = peer.features(image) @ head["weight"].T + head["bias"]
    return {name: torch.cat(steps) for name, steps in kept.items()} | {"final.image": image, "final.voxels": voxels}


def speed(task, device):
    """Times the parts of a guided step in each layout of memory, batch by batch: medians of runs that are waited for one by one."""
    torch.backends.cudnn.benchmark = True
    library, timed = diffusers_or_none(), []
    peer = Peer(configurations(task["networks"]), DTYPES[task["precision"]], device, library)
    if task["compile"]:
        peer.compile()
    for layout in task["layouts"]:
        memory_format = getattr(torch, layout)
        peer.arrange(memory_format)
        for batch in task["batches"]:
            latents = peer.latents(batch, task["size"]).to(memory_format=memory_format)
            try:
                found = {"parts": time_batch(peer, latents, task, device)}
            except torch.cuda.OutOfMemoryError as error:
                found = {"failed": str(error)[:300]}
            timed.append({"layout": layout, "batch": batch} | found)
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return {"networks": f"diffusers {library.__version__}" if library else "tests/gpu/networks.py", "timed": timed}


def time_batch(peer, x, task, device):
    batch, level = len(x), (torch.tensor(500, device=device), float(alpha_bars()[500]))
    recipe = {"gamma": 130.0, "sag_scale": 0.75, "offset": 0.0}
    recipe["prompt"] = torch.zeros(batch, PROMPT_TOKENS, peer.context, device=device, dtype=peer.dtype)
    recipe["direction"] = torch.randn(peer.tower.proj.shape[1], device=device)
    image = torch.rand(batch, 3, task["size"], task["size"], device=device)
    predict = lambda latents: peer.predict(latents, level[0], recipe["prompt"])
    works = {
        "vit_forward": forward(peer.features, image),
        "vit_forward_backward": backward(peer.features, image),
        "unet_forward": forward(predict, x),
        "unet_forward_backward": backward(predict, x),
        "vae_forward": forward(peer.decode, x),
        "vae_forward_backward": backward(peer.decode, x),
        "guided_step": lambda: peer.step(x, level, recipe, shared=False),
        "guided_step_shared": lambda: peer.step(x, level, recipe, shared=True),
    }
    return {name: cost(works[name], device, task) for name in task["parts"]}


def forward(network, value):
    def run():
        with torch.no_grad():
            network(value)

    return run


def backward(network, value):
    def run():
        tracked = value.detach().requires_grad_()
        output = network(tracked)
        torch.autograd.grad(output, tracked, torch.ones_like(output))

    return run


def cost(work, device, task):
    gpu = device.type == "cuda"
    wait = torch.cuda.synchronize if gpu else lambda: None
    for _ in range(task["warm_up"]):
        work()
    wait()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(task["repeats"]):
        begin = time.perf_counter()
        work()
        wait()
        seconds.append(time.perf_counter() - begin)
    found = {"seconds": statistics.median(seconds), "fastest": min(seconds), "slowest": max(seconds)}
    if gpu:
        found |= {"allocated_bytes": torch.cuda.max_memory_allocated(), "reserved_bytes": torch.cuda.max_memory_reserved()}
    if gpu and task["count_launches"]:
        found["launches"] = launches(work)
    return found


def launches(work):
    """Kernels of one run; `None` where the profiler does not work."""
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]) as profile:
            work()
            torch.cuda.synchronize()
        on_gpu = [event.name for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
        return sum(not name.startswith("Mem") for name in on_gpu) or None
    except Exception:
        return None


def main():
    tasks = {task.__name__: task for task in (facts, noise, random_bundle, trace, speed)}
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("task", choices=tasks)
    arguments.add_argument("--device", type=torch.device, default="cpu")
    options = arguments.parse_args()
    if options.device.type == "cuda":
        torch.cuda.set_device(options.device)
    print(json.dumps(tasks[options.task](json.load(sys.stdin), options.device)))


main()
