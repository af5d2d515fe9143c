"""Times an epoch of fitting a head to cached features in PyTorch and here, in turns, on the same machine.

    cargo bench --bench fit --no-run
    VENV/bin/python braindive/benches/fit.py target/release/deps/fit-... [--threads 2] [--rounds 2] [--images 10000] [--voxels 20000]

PyTorch runs the fastest of its three AdamW (one loop per tensor, foreach, fused), chosen in a short run first. Float32, CPU."""
import argparse, os, re, subprocess, sys, time
import torch


def epoch(model, optimiser, features, betas, order, batch):
    begin, cpu = time.perf_counter(), time.process_time()
    total = 0.0
    for rows in order.split(batch):
        optimiser.zero_grad()
        loss = torch.nn.functional.mse_loss(model(features[rows]), betas[rows])
        loss.backward()
        optimiser.step()
        total += loss.item()
    return time.perf_counter() - begin, time.process_time() - cpu


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("bench")
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--rounds", type=int, default=2)
    arguments.add_argument("--images", type=int, default=10_000)
    arguments.add_argument("--voxels", type=int, default=20_000)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    features = torch.nn.functional.normalize(torch.randn(options.images, 512))
    betas = torch.rand(options.images, options.voxels)
    order = torch.randperm(options.images)
    kinds = {"one loop per tensor": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}

    def peer(kind):
        model = torch.nn.Linear(512, options.voxels)
        return model, torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=2e-2, **kinds[kind])

    short = {}
    for kind in kinds:
        model, optimiser = peer(kind)
        epoch(model, optimiser, features, betas, order[:128], 64)
        short[kind], _ = epoch(model, optimiser, features, betas, order[:640], 64)
        print(f"PyTorch, {kind}: {short[kind] / 10:.4f} s a step", flush=True)
    kind = min(short, key=short.get)
    model, optimiser = peer(kind)
    theirs, ours = [], []
    for _ in range(options.rounds):
        theirs.append(epoch(model, optimiser, features, betas, order, 64))
        found = subprocess.run([options.bench, str(options.images), str(options.voxels)], capture_output=True, text=True, check=True,
                               env=os.environ | {"RAYON_NUM_THREADS": str(options.threads)}).stdout
        ours.append([float(word) for word in re.search(r"epoch, +s +([\d.]+) +CPU s +([\d.]+)", found).groups()])
        print(f"PyTorch, {kind}: {theirs[-1][0]:.2f} s an epoch, {theirs[-1][1]:.2f} CPU s\n{found}", flush=True)
    for what, ours, theirs in zip(("s", "CPU s"), zip(*ours), zip(*theirs)):
        print(f"shortest: ours {min(ours):.2f} {what}, PyTorch {min(theirs):.2f} {what}, ratio {min(ours) / min(theirs):.3f}")


main()
