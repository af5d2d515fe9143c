"""Times this project's networks beside PyTorch's, in turns, on the same machine: Stable Diffusion 2.1-base and ViT-B/16 at their real
sizes, random weights, float32, CPU.

    cargo build --release -p worker
    VENV/bin/python tests/reference/against_pytorch.py [--rounds 3] [--threads 2] [--parts vit unet vae step]

The interpreter needs torch, diffusers and open_clip_torch. Per part: medians over the rounds of CPU seconds (user and system, all
threads), wall seconds, and the peak of resident memory of a process that runs only this part; then ratios, ours to PyTorch's.
A guided step is the authors' on PyTorch's side (three forward passes of the UNet), ours shares the first and the third."""
import argparse, json, os, pathlib, statistics, subprocess, sys

HERE = pathlib.Path(__file__).parent
# part of bench.py -> (its measurement, our part)
PARTS = {
    "vit": [("vit_b16_forward", "vit_forward"), ("vit_b16_forward_backward", "vit_forward_backward")],
    "unet": [("unet_forward", "unet_forward"), ("unet_forward_backward", "unet_forward_backward")],
    "vae": [("vae_decode_forward", "vae_forward"), ("vae_decode_forward_backward", "vae_forward_backward")],
    "step": [("full_guided_step", "guided_step")],
}


def last_json(command, env):
    done = subprocess.run(command, env=os.environ | env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def pytorch(part, threads):
    env = {"BENCH_THREADS": str(threads), "BENCH_REPS": "1", "OMP_NUM_THREADS": str(threads)}
    found = json.loads(last_json([sys.executable, HERE / "bench.py", part], env).splitlines()[-1])
    return {theirs: (found[theirs]["cpu_median_s"], found[theirs]["median_s"], found[theirs]["peak_rss_gb"]) for theirs, _ in PARTS[part]}


def ours(part, threads, worker):
    found = {}
    for theirs, name in PARTS[part]:
        command = [worker, "bench", "--model", "sd21-base", "--random-weights", "--size", "512", "--steps", "1", "--parts", name, "--json"]
        report = json.loads(last_json(command, {"RAYON_NUM_THREADS": str(threads)}))
        (batch,) = report["batches"]
        (cost,) = batch["parts"]
        found[theirs] = (cost["cpu_seconds"], cost["seconds"], cost["peak_bytes"] / 1e9)
    return found


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    arguments.add_argument("--worker", type=pathlib.Path, default=HERE.parent.parent / "target/release/worker")
    options = arguments.parse_args()
    print(f"| part | PyTorch: CPU s | wall s | GB | ours: CPU s | wall s | GB | ratio CPU | wall | memory |\n|{'---|' * 10}", flush=True)
    for part in options.parts:
        rounds = [(pytorch(part, options.threads), ours(part, options.threads, options.worker)) for _ in range(options.rounds)]
        for name, _ in PARTS[part]:
            theirs, mine = ([statistics.median(side[name][i] for side in sides) for i in range(3)] for sides in zip(*rounds))
            cells = [f"{value:.2f}" for value in (*theirs, *mine, *(m / t for m, t in zip(mine, theirs)))]
            print(f"| {name.replace('_', ' ')} | " + " | ".join(cells) + " |", flush=True)


main()
