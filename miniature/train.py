#!/usr/bin/env python3
"""Miniature brain-guided diffusion bundle.   train.py STAGE --assets DIR     (STAGE: data vae recon latents unet coca clip head bundle all; unet2 = optional second pass)

Seeds are fixed; the result is equal up to floating-point order (thread count). Times on 2 cores: see report.md.
Set OMP_NUM_THREADS=2. `all` runs every stage in order; unet, coca and clip may also run side by side with --threads 1.
A file work/boost lets a running unet stage go from 1 to 2 threads."""
import argparse, copy, json, math, os, sys, time, warnings
warnings.filterwarnings("ignore")
os.environ.setdefault("HF_HUB_OFFLINE", "1"); os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error"); os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
from pathlib import Path
import numpy as np, torch, torch.nn.functional as F
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import data
WORK = HERE / "work"; WORK.mkdir(exist_ok=True)
VAE_CH, VAE_STEPS = (24, 48, 64), 1300
UNET_CH, UNET_STEPS, UNET_B = (48, 96), 2600, 64
UNET2_STEPS = 1000
CLIP_STEPS, COCA_STEPS, CB = 450, 700, 96
MERGES = 1022
GAMMA = 14.0                      # from evaluate.py sweep and table
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def log(stage, **k):
    line = json.dumps({"stage": stage, **k}); print(line, flush=True)
    with open(WORK / "curves.jsonl", "a") as f: f.write(line + "\n")


def stage_data(a):
    from multiprocessing import Pool
    t = time.time()
    with Pool(2) as p:
        tr = p.starmap(data.make, [(a.assets, 1200, s, True) for s in (1, 2)]); ev = p.starmap(data.make, [(a.assets, 60, s, False) for s in (3, 4)])
    cat = lambda q: (np.concatenate([x[0] for x in q]), np.concatenate([x[1] for x in q]), sum([x[2] for x in q], []), sum([x[3] for x in q], []))
    for n, q in (("train", cat(tr)), ("eval", cat(ev))):
        np.savez(WORK / f"{n}.npz", x=q[0], c=q[1], k=np.array(q[2]), n=np.array(q[3]))
    log("data", seconds=round(time.time() - t, 1), train=len(cat(tr)[0]), eval=len(cat(ev)[0]))


def images(n):
    z = np.load(WORK / f"{n}.npz")
    return torch.from_numpy(z["x"]).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(z["c"]), z["k"], z["n"]


def new_vae(scale=None):
    from diffusers import AutoencoderKL
    n = len(VAE_CH)
    return AutoencoderKL(in_channels=3, out_channels=3, latent_channels=4, sample_size=32, act_fn="silu", block_out_channels=VAE_CH, layers_per_block=1,
                         norm_num_groups=8, down_block_types=["DownEncoderBlock2D"] * n, up_block_types=["UpDecoderBlock2D"] * n, **({"scaling_factor": scale} if scale else {}))


def load_vae():
    s = torch.load(WORK / "vae.pt"); v = new_vae(s["scale"]); v.load_state_dict(s["sd"]); return v.eval().requires_grad_(False), s["scale"]


def encode_all(v, x, b=200):
    with torch.no_grad(): return torch.cat([v.encode(x[i:i + b].float() / 127.5 - 1).latent_dist.mean for i in range(0, len(x), b)])


def stage_vae(a):
    torch.manual_seed(10); x, _, _, _ = images("train"); xe, _, _, _ = images("eval")
    v = new_vae().to(memory_format=torch.channels_last); o = torch.optim.AdamW(v.parameters(), 2e-3, weight_decay=1e-4, betas=(.9, .95))
    sched = torch.optim.lr_scheduler.OneCycleLR(o, 2e-3, VAE_STEPS, pct_start=.08, anneal_strategy="cos", final_div_factor=50)
    t = time.time()
    def save():
        v.eval(); z = encode_all(v, x[::6]); scale = 1 / float(z.std())
        with torch.no_grad(): y = torch.cat([v.decode(zz).sample for zz in encode_all(v, xe).split(100)])
        psnr = float((-10 * ((y.clamp(-1, 1) - (xe.float() / 127.5 - 1)) / 2).pow(2).flatten(1).mean(1).log10()).mean())
        torch.save({"sd": v.state_dict(), "scale": scale}, WORK / "vae.pt"); v.train(); return psnr, scale, [round(float(q), 2) for q in z.std((0, 2, 3))]
    for it in range(VAE_STEPS):
        q = x[torch.randint(0, len(x), (32,))].float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            d = v.encode(q).latent_dist; y = v.decode(d.sample()).sample
        y = y.float(); e = y - q
        gx = (e[..., 1:] - e[..., :-1]).abs().mean() + (e[..., 1:, :] - e[..., :-1, :]).abs().mean()
        kl = .5 * (d.mean.float() ** 2 + d.logvar.float().exp() - d.logvar.float() - 1).mean()
        loss = e.abs().mean() + e.pow(2).mean() + .5 * gx + 2e-3 * kl
        o.zero_grad(); loss.backward(); torch.nn.utils.clip_grad_norm_(v.parameters(), 1.); o.step(); sched.step()
        if it % 100 == 0 or it == VAE_STEPS - 1: log("vae", it=it, l1=round(float(e.abs().mean()), 4), kl=round(float(kl), 3), s=round(time.time() - t, 1))
        if it in (500, 900) or it == VAE_STEPS - 1: p, sc, cs = save(); log("vae_eval", it=it, psnr=round(p, 2), scale=round(sc, 4), latent_std=cs)


def stage_recon(a):
    x, c, _, _ = images("eval"); v, _ = load_vae(); ix = torch.cat([torch.nonzero(c == j)[:10, 0] for j in range(5)])
    with torch.no_grad(): y = ((v.decode(v.encode(x[ix].float() / 127.5 - 1).latent_dist.mean).sample.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    rows = sum([[x[ix[j * 10:j * 10 + 10]], y[j * 10:j * 10 + 10]] for j in range(5)], [])
    data.sheet(torch.cat(rows).permute(0, 2, 3, 1).numpy(), 10, 4).save(HERE / "reconstructions.png")


def ref_module():
    sys.path.insert(0, os.environ.get("REF_DIR", str(HERE.parent / "tests/reference")))
    import ref
    return ref


def stage_latents(a):
    """Scaled latents for the UNet; decodes of smoothed/noised latents as augmentation for the two contrastive models."""
    torch.manual_seed(20); x, _, _, _ = images("train"); v, s = load_vae(); t = time.time()
    z = encode_all(v, x) * s; torch.save(z, WORK / "latents.pt")
    out = []
    with torch.no_grad():
        for q in z.split(200):
            low = F.interpolate(F.avg_pool2d(q, 2), scale_factor=2, mode="bilinear"); w = torch.rand(len(q), 1, 1, 1) * (torch.rand(len(q), 1, 1, 1) < .6)
            n = torch.rand(len(q), 1, 1, 1) * .5 * (torch.rand(len(q), 1, 1, 1) < .6)
            out.append(((v.decode((q * (1 - w) + low * w + n * torch.randn_like(q)) / s).sample.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))
    torch.save(torch.cat(out), WORK / "degraded.pt"); log("latents", seconds=round(time.time() - t, 1), std=round(float(z.std()), 3))


def text_encoder():
    ref = ref_module(); V = len(ref.build_vocab(ref.read_bpe_merges()[:MERGES]))
    net = ref.build_text(dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=V), 4242)   # random but fixed: only "" is used
    return net, V


def bpe():
    ref = ref_module(); m = ref.read_bpe_merges()[:MERGES]
    return ref.Bpe(ref.build_vocab(m), m)


def new_unet():
    from diffusers import UNet2DConditionModel
    ref = ref_module(); cfg = dict(ref.SD21_UNET)
    cfg.update(sample_size=8, block_out_channels=list(UNET_CH), layers_per_block=1, attention_head_dim=[3, 6], norm_num_groups=8, cross_attention_dim=32,
               down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"], up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"])
    return UNet2DConditionModel(**cfg)


def stage_unet(a, steps=UNET_STEPS, peak=1.5e-3, seed=30, resume=False):
    ref = ref_module(); text, _ = text_encoder(); torch.manual_seed(seed)
    with torch.no_grad(): ctx = text(bpe().pad([""], 77)).last_hidden_state
    z = torch.load(WORK / "latents.pt"); acp = ref.sd_alphas_cumprod(); u = new_unet().to(memory_format=torch.channels_last)
    if resume: u.load_state_dict(torch.load(WORK / "unet.pt"))
    ema = copy.deepcopy(u).requires_grad_(False)
    log("unet2" if resume else "unet", params=sum(p.numel() for p in u.parameters()))
    o = torch.optim.AdamW(u.parameters(), peak, weight_decay=1e-3, betas=(.9, .99)); t0 = time.time(); run = []
    for it in range(steps):
        lr = peak * min(1, (it + 1) / 150) * (.02 + .98 * .5 * (1 + math.cos(math.pi * it / steps)))
        for g in o.param_groups: g["lr"] = lr
        if it % 50 == 0 and torch.get_num_threads() == 1 and (WORK / "boost").exists(): torch.set_num_threads(2); log("unet2" if resume else "unet", boost=it)
        x0 = z[torch.randint(0, len(z), (UNET_B,))].contiguous(memory_format=torch.channels_last); e = torch.randn_like(x0)
        t = ((torch.arange(UNET_B) + torch.rand(UNET_B)) / UNET_B * 1000).long().clamp(0, 999); ab = acp[t].view(-1, 1, 1, 1)    # stratified
        loss = F.mse_loss(u(ab.sqrt() * x0 + (1 - ab).sqrt() * e, t, ctx.expand(UNET_B, -1, -1)).sample, e)
        o.zero_grad(); loss.backward(); torch.nn.utils.clip_grad_norm_(u.parameters(), 1.); o.step(); run.append(float(loss))
        d = .998 if resume else min(.998, (1 + it) / (10 + it))
        with torch.no_grad(): torch._foreach_lerp_(list(ema.parameters()), list(u.parameters()), 1 - d)
        if it % 100 == 99: log("unet2" if resume else "unet", it=it + 1, loss=round(float(np.mean(run[-100:])), 4), s=round(time.time() - t0, 1))
        if it % 500 == 499 or it == steps - 1: torch.save(ema.state_dict(), WORK / "unet_tmp.pt"); os.replace(WORK / "unet_tmp.pt", WORK / "unet.pt")


def stage_unet2(a): stage_unet(a, UNET2_STEPS, 7e-4, 31, True)     # second pass from the EMA weights (warm restart)


def clip_cfg(V):
    return dict(embed_dim=64, vision_cfg=dict(image_size=32, layers=3, width=96, head_width=24, patch_size=4), text_cfg=dict(context_length=77, vocab_size=V, width=48, heads=4, layers=2))


def coca_cfg(V):
    return dict(embed_dim=48, vision_cfg=dict(image_size=32, layers=3, width=80, head_width=20, patch_size=4, attentional_pool=True, attn_pooler_heads=4, attn_pooler_queries=6, output_tokens=True),
                text_cfg=dict(context_length=76, vocab_size=V, width=48, heads=4, layers=2, embed_cls=True, output_tokens=True),
                multimodal_cfg=dict(context_length=76, vocab_size=V, width=48, heads=2, layers=1, attn_pooler_heads=2), custom_text=True)


def new_contrastive(kind, V):
    import open_clip
    from open_clip.coca_model import CoCa
    if kind == "clip": return open_clip.CLIP(**clip_cfg(V))
    net = CoCa(**{k: v for k, v in coca_cfg(V).items() if k != "custom_text"}); p = net.text_decoder.text_projection     # open_clip leaves this one uninitialised
    with torch.no_grad(): p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(51)) * p.shape[0] ** -.5)
    return net


def norm_in(u8f): return (u8f - torch.tensor(CLIP_MEAN).view(1, 3, 1, 1)) / torch.tensor(CLIP_STD).view(1, 3, 1, 1)


def contrastive(kind, seed, steps):
    V = text_encoder()[1]; tok = bpe(); torch.manual_seed(seed); rng = np.random.default_rng(seed)
    x, c, k, n = images("train"); xe, ce, _, _ = images("eval"); bad = torch.load(WORK / "degraded.pt")
    net = new_contrastive(kind, V).train(); net.logit_scale.data.fill_(math.log(14.))
    ctx = 77 if kind == "clip" else 76
    caps = [(ci, kinds, None, p) for ci, cl in enumerate(data.CLASSES) for p, kinds in data.GENERIC[cl]] + [(None, None, q, q) for q in sorted(set(n))]
    ids = tok.pad([q[3] for q in caps], ctx); num = {q[2]: i for i, q in enumerate(caps) if q[2]}
    fit = {(ci, kk): [i for i, q in enumerate(caps) if q[2] is None and q[0] == ci and (q[1] is None or kk in q[1])] for ci, kk in set(zip(c.tolist(), k.tolist()))}
    o = torch.optim.AdamW(net.parameters(), 1.5e-3, weight_decay=.05, betas=(.9, .98)); t0 = time.time()
    flat = [q[3] for q in caps if q[2] is None]; cls = torch.tensor([q[0] for q in caps if q[2] is None])
    def evaluate():
        net.eval()
        with torch.no_grad():
            T = F.normalize(net.encode_text(ids[:len(flat)]), dim=-1); I = F.normalize(torch.cat([net.encode_image(norm_in(q.float() / 255)) for q in xe.split(100)]), dim=-1)
            s = I @ T.T; pred = torch.stack([s[:, cls == j].max(1).values for j in range(5)], 1).argmax(1)
        net.train(); torch.save(net.state_dict(), WORK / f"{kind}.pt"); return float((pred == ce).float().mean()), [round(float((pred[ce == j] == j).float().mean()), 2) for j in range(5)]
    for it in range(steps):
        for g in o.param_groups: g["lr"] = 1.5e-3 * min(1, (it + 1) / 60) * (.02 + .98 * .5 * (1 + math.cos(math.pi * it / steps)))
        i = rng.integers(0, len(x), CB); b = torch.from_numpy(i)
        im = torch.where((torch.rand(CB) < .45).view(-1, 1, 1, 1), bad[b], x[b]).float() / 255
        im = (im - .5) * (1 + .2 * torch.randn(CB, 1, 1, 1)) + .5 + .06 * torch.randn(CB, 3, 1, 1) + torch.rand(CB, 1, 1, 1) * .06 * torch.randn_like(im)
        sx, sy = int(rng.integers(-2, 3)), int(rng.integers(-2, 3)); im = F.pad(im.clamp(0, 1), (2, 2, 2, 2), mode="replicate")[..., 2 + sy:34 + sy, 2 + sx:34 + sx]
        j = np.array([rng.choice(fit[(int(c[q]), k[q])]) if rng.random() < .6 else num[n[q]] for q in i])
        uq, inv = np.unique(j, return_inverse=True)
        M = torch.tensor([[(caps[w][2] == n[q]) if caps[w][2] else (caps[w][0] == int(c[q]) and (caps[w][1] is None or k[q] in caps[w][1])) for w in uq] for q in i])
        I = F.normalize(net.encode_image(norm_in(im)), dim=-1); T = F.normalize(net.encode_text(ids[uq]), dim=-1)
        L = net.logit_scale.exp().clamp(max=100) * I @ T.T; P = L.masked_fill(~M, -1e4)
        loss = (L.logsumexp(1) - P.logsumexp(1)).mean() + (L.logsumexp(0) - P.logsumexp(0)).mean() + .5 * F.cross_entropy(L, torch.from_numpy(inv).long(), label_smoothing=.0) * 0
        o.zero_grad(); loss.backward(); torch.nn.utils.clip_grad_norm_(net.parameters(), 1.); o.step()
        if it % 50 == 49: log(kind, it=it + 1, loss=round(float(loss), 3), s=round(time.time() - t0, 1))
        if it % 150 == 149 or it == steps - 1: ac, per = evaluate(); log(kind + "_eval", it=it + 1, heldout_5way=round(ac, 3), per_class=per, scale=round(float(net.logit_scale.exp()), 1))


def stage_clip(a): contrastive("clip", 40, CLIP_STEPS)
def stage_coca(a): contrastive("coca", 50, COCA_STEPS)


def load_contrastive(kind):
    net = new_contrastive(kind, text_encoder()[1]); net.load_state_dict(torch.load(WORK / f"{kind}.pt")); return net.eval().requires_grad_(False)


def properties(x, c, k, kinds):
    f = x.float() / 255; g = f.mean(1)
    return torch.cat([f.mean((2, 3)), g.std((1, 2))[:, None], (g[:, :16].mean((1, 2)) - g[:, 16:].mean((1, 2)))[:, None], (f.amax(1) - f.amin(1)).mean((1, 2))[:, None],
                      torch.tensor([[float(q == w) for w in kinds] for q in k])], 1)


def stage_head(a):
    """Simulated subject: 5 category ROIs x 60 voxels + 100 unselective; ridge from unit CLIP features."""
    g = torch.Generator().manual_seed(60); net = load_contrastive("clip"); kinds = None; D = {}
    for n in ("train", "eval"):
        x, c, k, _ = images(n); kinds = kinds if kinds is not None else sorted(set(k))
        with torch.no_grad(): f = F.normalize(torch.cat([net.visual(norm_in(q.float() / 255)) for q in x.split(250)]), dim=1)
        D[n] = (f, c, properties(x, c, k, kinds))
    N, per = 400, 60; rois = {cl: list(range(i * per, (i + 1) * per)) for i, cl in enumerate(data.CLASSES)}; rois["unselective"] = list(range(300, 400))
    P = D["train"][2]; mu, sd = P.mean(0), P.std(0) + 1e-6
    cat = torch.full((N,), -1); cat[:300] = torch.arange(300) // per
    amp = .7 + .5 * torch.rand(N, generator=g); amp[300:] = 0
    sub = torch.randn(N, P.shape[1], generator=g); sub = sub / sub.norm(dim=1, keepdim=True); ss = .25 + .35 * torch.rand(N, generator=g); ss[300:] = .8; noise = .9
    def betas(f, c, p):
        one = F.one_hot(c, 5).float(); one = (one - .2) / .4
        sig = torch.zeros(len(c), N); sig[:, :300] = one[:, cat[:300]] * amp[:300]
        return sig + ((p - mu) / sd) @ sub.T * ss + noise * torch.randn(len(c), N, generator=g)
    Y = betas(*D["train"]); m, s = Y.mean(0), Y.std(0); Y = (Y - m) / s; Ye = (betas(*D["eval"]) - m) / s
    X, Xe = D["train"][0], D["eval"][0]; perm = torch.randperm(len(X), generator=g); va, fi = perm[:2000], perm[2000:]
    def ridge(X, Y, lam):
        xm, ym = X.mean(0), Y.mean(0); A = (X - xm).double(); W = torch.linalg.solve(A.T @ A + lam * torch.eye(A.shape[1]).double(), A.T @ (Y - ym).double()).T.float(); return W, ym - W @ xm
    r2 = lambda W, b, X, Y: 1 - (Y - X @ W.T - b).pow(2).sum(0) / (Y - Y.mean(0)).pow(2).sum(0)
    lam = max((.1, 1., 10., 50., 200.), key=lambda l: float(r2(*ridge(X[fi], Y[fi], l), X[va], Y[va]).mean()))
    W, b = ridge(X, Y, lam); q = r2(W, b, Xe, Ye)
    pref = torch.stack([(Xe @ W.T + b)[D["eval"][1] == j].mean(0) for j in range(5)], 1)
    table = {r: [round(float(pref[i].mean(0)[j]), 2) for j in range(5)] for r, i in rois.items()}
    log("head", lam=lam, r2_heldout={r: round(float(q[i].mean()), 3) for r, i in rois.items()}, r2_range=[round(float(q.min()), 3), round(float(q.max()), 3)], mean_prediction_by_class=table)
    torch.save({"W": W, "b": b, "rois": rois, "r2": q}, WORK / "head.pt")


def stage_bundle(a):
    ref = ref_module(); v, scale = load_vae(); text, V = text_encoder(); h = torch.load(WORK / "head.pt"); u = new_unet(); u.load_state_dict(torch.load(WORK / "unet.pt"))
    m = dict(unet=u, vae=v, text=text, clip=load_contrastive("clip"), coca=load_contrastive("coca"), W=h["W"], b=h["b"], cfg=dict(clip=clip_cfg(V), coca=coca_cfg(V)))
    for k in ("unet", "vae", "text", "clip", "coca"): m[k] = m[k].half()
    d = HERE / "bundle"; ref.write_bundle(d, m, dict(merges=MERGES), {})
    p = d / "sd/vae/config.json"; c = json.loads(p.read_text()); c["scaling_factor"] = scale; c["sample_size"] = 32; ref.jd(p, c)
    p = d / "sd/text_encoder/config.json"; c = json.loads(p.read_text()); c["torch_dtype"] = "float16"; ref.jd(p, c)
    p = d / "encoder/config.json"; c = json.loads(p.read_text()); c.update(simulated=True, rois=h["rois"], r2_heldout=[round(float(q), 4) for q in h["r2"]], recommended_gamma=GAMMA); ref.jd(p, c)
    log("bundle", mb=round(sum(f.stat().st_size for f in d.rglob("*") if f.is_file()) / 1e6, 3), scaling_factor=scale)


if __name__ == "__main__":
    ap = argparse.ArgumentParser(); ap.add_argument("stage"); ap.add_argument("--assets", default="assets"); ap.add_argument("--threads", type=int, default=2); a = ap.parse_args()
    torch.set_num_threads(a.threads)
    for s in (["data", "vae", "recon", "latents", "unet", "coca", "clip", "head", "bundle"] if a.stage == "all" else [a.stage]): globals()["stage_" + s](a)
