#!/usr/bin/env python3
"""Goldens of what a sampling request can ask for beside the paper's recipe (uses ref.py; nothing here needs a network).

  ref_request.py noise      torch.randn of a CPU generator                       -> request/noise_torch_cpu.json
  ref_request.py solvers    DDIM, Euler and DPM-Solver++ on a toy noise predictor -> request/solvers.json
  ref_request.py encoder    posterior means of AutoencoderKL.encode              -> request/vae_encoder.safetensors
  ref_request.py runs       text guidance; image start, interval, gradient to x0 -> request/runs.safetensors, init.png
"""
from ref import *  # noqa: F401,F403
import PIL.Image

HERE = Path(__file__).resolve().parent
OUT = HERE / "request"


def noise():
    """Whole tensors as sums, and the elements at `index`: an n that is a multiple of 16, and two that are not."""
    cases = []
    for seed in (0, 42, 123456789012):
        for n in (16384, 325, 16):
            x = torch.randn(n, generator=torch.Generator("cpu").manual_seed(seed)).double()
            index = sorted({0, 1, 7, 8, 15, n // 2, n - 17, n - 16, n - 9, n - 2, n - 1} & set(range(n)))
            cases.append(dict(seed=seed, n=n, index=index, value=x[index].tolist(), sum=x.sum().item(), sum_of_squares=(x * x).sum().item()))
    jd(OUT / "noise_torch_cpu.json", {"what": "torch.randn(n) in float32 after torch.Generator('cpu').manual_seed(seed)", "torch": torch.__version__, "cases": cases})


def toy(x, t):
    """A noise predictor that is neither linear nor the same at all timesteps."""
    return torch.tanh(1.3 * x + 0.4) * (0.5 + 0.5 * t / 999)


def solvers():
    """Latents after every step, float64 up to diffusers' own casts (Euler and DPM-Solver++ compute in float32).

    All three walk round(linspace(0, 999, n + 1)) from its end without the final 0. DDIMScheduler counts back 1000 // n from a
    timestep: only for an n whose spacing 999 / n is that whole number (3, 9, 27, 37) does it walk these timesteps.
    """
    from diffusers import DDIMScheduler, EulerDiscreteScheduler
    common = {k: SD21_SCHEDULER[k] for k in ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps", "prediction_type")}
    start = torch.tensor([0.2, -1.1, 0.7, 2.3, -0.4], dtype=torch.float64)
    cases = []
    for n in (9, 27):
        t = np.round(np.linspace(0, 999, n + 1))[::-1][:-1].astype(int)
        for final in ("zero", "sigma_min"):
            for first in (0, n // 3):
                def walk(sched, x, scale):
                    sched.set_begin_index(first) if hasattr(sched, "set_begin_index") else None
                    out = []
                    for i in range(first, n):
                        s = scale(i)
                        r = sched.step(toy(x, int(t[i])), sched.timesteps[i], x * s)
                        x = r.prev_sample.double() / scale(i + 1)
                        if final == "zero" and i == n - 1 and isinstance(sched, DDIMScheduler):
                            x = r.pred_original_sample     # alpha_bar of the last target is 1: the step ends on its data prediction
                        out.append(x.tolist())
                    return out
                ddim = DDIMScheduler(**common, clip_sample=False, set_alpha_to_one=False, timestep_spacing="linspace")
                ddim.set_timesteps(n); ddim.timesteps = torch.tensor(t.copy())
                cases.append(dict(solver="ddim", steps=n, final_sigma=final, first=first, latents=walk(ddim, start, lambda i: 1.0)))
                euler = EulerDiscreteScheduler(**common, timestep_spacing="linspace", final_sigmas_type=final)
                euler.set_timesteps(timesteps=t.tolist())
                # its variables are x / sqrt(alpha_bar): sqrt(sigma^2 + 1) times the latents
                cases.append(dict(solver="euler", steps=n, final_sigma=final, first=first,
                                  latents=walk(euler, start, lambda i: float((euler.sigmas[i].double() ** 2 + 1) ** 0.5))))
                dpm = make_scheduler(final); dpm.set_timesteps(n)
                assert dpm.timesteps.tolist() == t.tolist()
                cases.append(dict(solver="dpm_solver_pp_2m", steps=n, final_sigma=final, first=first, latents=walk(dpm, start, lambda i: 1.0)))
    jd(OUT / "solvers.json", {"what": "noise_pred = tanh(1.3 x + 0.4) * (0.5 + 0.5 t / 999); first: index of the first step taken",
                              "start": start.tolist(), "cases": cases})


def smooth_image(side, seed):
    g = torch.Generator().manual_seed(seed)
    low = torch.rand(1, 3, 5, 5, generator=g)
    x = F.interpolate(low, size=(side, side), mode="bicubic", align_corners=True).clamp(0, 1)
    return (x[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()


def unit_to_vae(u8):
    return torch.from_numpy(u8.copy()).permute(2, 0, 1)[None].float() / 255 * 2 - 1


def encoder():
    """The posterior's mean, not scaled, of one image by every autoencoder of the cases (both attention namings)."""
    out = {}
    for name, size in (("small_s5", (32, 32)), ("deep_s10", (64, 32)), ("three_s50_2023", (32, 48))):
        m = load_bundle(HERE / "cases" / name / "bundle")
        u8 = smooth_image(64, 7)[: size[0], : size[1]]
        out[f"{name}.image"] = torch.from_numpy(u8.copy())
        out[f"{name}.mean"] = m["vae"].encode(unit_to_vae(u8)).latent_dist.mean.contiguous()
    OUT.mkdir(exist_ok=True)
    save_file(out, OUT / "vae_encoder.safetensors")


def run(r, z0, *, steps, gamma, sag, idx, denom, ids, null_ids=None, text_guidance=1.0, first=0, final="zero", ddim=False,
        interval=(0.0, 1.0), through_unet=True):
    """Ref.run with what a request can ask for. Text guidance: the plain prediction of the prompt guides the brain, the empty
    prompt's prediction and attention serve self-attention guidance, as in diffusers' StableDiffusionSAGPipeline."""
    tr = {}
    put = lambda k, v: tr.setdefault("step." + k, []).append(v.detach().clone())
    acp = sd_alphas_cumprod()
    own = Dpmpp2M(acp, steps, final)
    acp = acp.to(r.dtype)
    with torch.no_grad():
        ctx = r.embed(ids)
        null = r.embed(null_ids) if null_ids is not None else ctx
    x = z0.to(r.dtype)
    hw = {}
    hook = r.m["unet"].mid_block.attentions[0].register_forward_hook(lambda mod, i, o: hw.__setitem__("s", o[0].shape[-2:]))
    for i in range(first, steps):
        t = torch.tensor(own.t[i]); ab = acp[t]; sa, sb = ab.sqrt(), (1 - ab).sqrt()
        put("latents_in", x)
        with torch.no_grad():
            e = r.eps(x, t, ctx); put("noise_pred", e)
            free = r.eps(x, t, null) if text_guidance != 1 else e
            p = r.store.probs
            ef = free + text_guidance * (e - free) if text_guidance != 1 else e
            if text_guidance != 1:
                put("null_pred", free)
            if sag > 0:
                col = p.mean(1).sum(1); mh, mw = hw["s"]
                up = F.interpolate((col > 1.0).to(r.dtype).view(1, 1, mh, mw), size=x.shape[-2:], mode="nearest")
                x0 = (x - sb * free) / sa
                deg = sa * (blur(x0) * up + x0 * (1 - up)) + sb * free
                ed = r.eps(deg, t, null); put("degraded_pred", ed)
                ef = ef + sag * (free - ed)
        if gamma > 0 and interval[0] <= i / steps < interval[1]:
            xg = x.detach().clone().requires_grad_(True)
            e2 = r.eps(xg, t, ctx)
            if not through_unet:
                e2 = e2.detach()
            px0 = (xg - sb * e2) / sa
            img = (r.decode(px0 * sb + xg * (1 - sb)) / 2 + 0.5).clamp(0, 1)
            act = r.voxels(img)["voxels"][0, idx].sum() / denom
            (gr,) = torch.autograd.grad(act * gamma, xg)
            put("grad_latents", gr); put("mean_activation", act.view(1))
            ef = ef - sb * gr
        put("noise_pred_final", ef)
        if ddim or i == first:      # DPM-Solver++'s first step has no predecessor: it is DDIM's
            own.prev = (x - own.s[i] * ef) / own.a[i]
            x = own.a[i + 1] * own.prev + own.s[i + 1] * ef
        else:
            _, x = own.step(i, ef, x)
        put("latents_out", x)
    hook.remove()
    out = {k: torch.stack([z[0] if z.ndim == 4 else z for z in v]) for k, v in tr.items()}
    if null_ids is not None:
        out["prompt_embeds"], out["null_embeds"] = ctx, null
    out["final.image"] = (r.decode(x) / 2 + 0.5).clamp(0, 1).detach()
    return out


TEXT = "a photo of a face"


def runs():
    """Two runs on the bundle of small_s5."""
    d = HERE / "cases/small_s5"
    m = load_bundle(d / "bundle"); meta = json.loads((d / "meta.json").read_text()); r = Ref(m)
    z = load_file(d / "inputs.safetensors")["initial_latents"]
    idx, denom = torch.tensor(meta["voxel_index"]), meta["denominator"]
    null_ids, ids = m["ids"], m["bpe"].pad([TEXT], 77)
    out = {}
    text = run(r, z, steps=3, gamma=130.0, sag=0.75, idx=idx, denom=denom, ids=ids, null_ids=null_ids, text_guidance=7.5)
    out.update({f"text.{k}": t for k, t in text.items()})
    u8 = smooth_image(32, 3); OUT.mkdir(exist_ok=True); PIL.Image.fromarray(u8).save(OUT / "init.png")
    latents = m["vae"].encode(unit_to_vae(u8)).latent_dist.mean * m["vae"].config.scaling_factor
    steps, strength = 5, 0.6
    first = steps - min(int(steps * strength), steps)
    acp = sd_alphas_cumprod(); ab = acp[Dpmpp2M(acp, steps).t[first]]
    start = ab.sqrt() * latents + (1 - ab).sqrt() * z
    out["image.start"] = start
    for solver in ("ddim", "dpm"):
        image = run(r, start, steps=steps, gamma=130.0, sag=0.75, idx=idx, denom=denom, ids=null_ids, first=first, ddim=solver == "ddim",
                    interval=(0.6, 1.0), through_unet=False)
        out.update({f"image.{solver}.{k}": t for k, t in image.items()})
    save_file({k: t.detach().float().contiguous() for k, t in out.items()}, OUT / "runs.safetensors")
    for k, t in sorted(out.items()):
        print(k, list(t.shape), float(t.abs().max()))


if __name__ == "__main__":
    for name in sys.argv[1:] or ("noise", "solvers", "encoder", "runs"):
        {"noise": noise, "solvers": solvers, "encoder": encoder, "runs": runs}[name]()
