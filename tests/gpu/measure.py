"""Every figure and every check that needs a GPU, in one run: on a machine with a card, a worker built for it, and PyTorch.

    python3 tests/gpu/measure.py --worker target/release/worker --device cuda:0 --out DIR

The interpreter needs torch and numpy; diffusers, if it is there, is what is measured against. Prints a table after each part and keeps all
that was found in DIR/figures.json, which is written again after each part: one that fails or takes too long is noted there, and the others
run. On a machine without a card: --device cpu --tiny --quick. README.md beside this file says what is measured."""
import argparse, contextlib, functools, json, math, os, pathlib, signal, statistics, subprocess, sys, tempfile, time

import nvml

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
sys.path.insert(0, str(REPOSITORY / "tests/reference"))
import compare

MINIATURE = REPOSITORY / "miniature/bundle"
CASES = [REPOSITORY / "miniature/golden", *sorted((REPOSITORY / "tests/reference/cases").iterdir())]
QUICK_CASES = ["golden", "small_s5"]
# As `worker bench` and peer.py name them; the first two make an image.
NETWORK_PARTS = ["vit_forward", "vit_forward_backward", "unet_forward", "unet_forward_backward", "vae_forward_backward"]
IMAGE_PARTS = ["guided_step", "vae_forward"]
SHARED = "guided_step_shared"
LAYOUTS = ["contiguous_format", "channels_last"]
STEPS_PER_IMAGE = 50
# Aim: at most this share of PyTorch's seconds, and this many seconds an image on an H100.
TARGET_RATIO, TARGET_SECONDS = 0.8, 3.0
# How many times PyTorch's deviation from single precision ours may be in 16 bits: in the first noise that is predicted, which is smooth, and as
# the geometric mean over free runs. A single run is one draw: a pixel that rounding moves across the decoder's clamp decides its gradient.
FIRST_RATIO, RUNS_RATIO = 1.5, 2.0
ROUNDED_KEYS = ["step.noise_pred", "step.grad_latents", "step.latents_out", "final.image", "final.voxels"]
FIRST = "first noise_pred"
SEEDS = [0, 1, 42, 123456789012]


class Failed(Exception):
    """A process that failed or took too long; says how."""


def run(command, limit, task=None):
    """Standard output of a command; after `limit` seconds it is ended with all that it started."""
    command = [str(word) for word in command]
    process = subprocess.Popen(
        command, text=True, start_new_session=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        out, errors = process.communicate(task, timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise Failed(f"{' '.join(command)}: not done after {limit} s") from None
    if process.returncode:
        raise Failed(f"{' '.join(command)}: exit code {process.returncode}\n{(errors + out)[-1500:]}")
    return out


class Bench:
    """What all parts share: the worker, the device, sizes and effort."""

    def __init__(self, options, scratch):
        self.worker, self.device, self.scratch = options.worker.resolve(), options.device, scratch
        self.tiny, self.quick = options.tiny, options.quick
        self.size = 32 if options.tiny else 512
        self.batches = [1, 2] if options.tiny else [1, 4] if options.quick else [1, 4, 8]
        self.repeats = 3 if options.quick else 9

    def peer(self, name, limit, **task):
        out = run([sys.executable, HERE / "peer.py", name, "--device", self.device], limit, json.dumps(task))
        return json.loads(out.splitlines()[-1])

    @functools.cached_property
    def doctor(self):
        """How `worker doctor` ended, and its report."""
        command = [self.worker, "doctor", "--device", self.device, "--json"]
        done = subprocess.run(command, text=True, capture_output=True, timeout=180)
        return done, json.loads(done.stdout or "{}")

    def narrow(self):
        """The precisions of 16 bits that the worker computes in on the device."""
        found = {check["precision"] for check in self.doctor[1].get("checks", [])}
        return ["half", "bfloat16"] if "bf16" in found else ["half"]

    def watch(self):
        return nvml.Watch(self.device, self.doctor[1].get("uuid"))

    def sample(self, request, name):
        """The trace of a request, a file, and the request with absolute paths, a file too."""
        folder = self.scratch / name
        folder.mkdir(parents=True)
        (folder / "request.json").write_text(json.dumps(request))
        run([self.worker, "sample", folder / "request.json", "--device", self.device, "--trace", "--out", folder], 180)
        return folder / "trace.safetensors", folder / "request.json"

    def bench(self, batch, parts, repeats):
        networks = ["--model", "sd21-base", "--random-weights"]
        if self.tiny:
            networks = ["--diffusion", MINIATURE / "sd", "--backbone", MINIATURE / "clip"]
        shape = ["--precision", "half", "--size", self.size, "--batch", batch, "--steps", repeats, "--device", self.device]
        out = run([self.worker, "bench", *networks, *shape, "--parts", *parts, "--json"], 240)
        (found,) = json.loads(out)["batches"]
        return {part["name"]: part for part in found["parts"]}


def table(head, rows):
    cell = lambda value: "–" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
    lines = [f"| {' | '.join(map(cell, row))} |" for row in [head, *rows]]
    print("\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]]) + "\n", flush=True)


def ratio(ours, theirs):
    return ours / theirs if ours is not None and theirs else None


# ------------------------------------------------------------------------------------------------ parts


def facts(bench):
    """Card, driver and versions."""
    found = {"worker": run([bench.worker, "--version"], 30).strip(), "processors": os.cpu_count()}
    found |= {name: bench.doctor[1].get(name) for name in ("hardware", "driver", "libraries")}
    found |= bench.peer("facts", 180)
    print(", ".join(f"{name} {value}" for name, value in found.items()) + "\n", flush=True)
    return found


def doctor(bench):
    """What `worker doctor` finds."""
    done, report = bench.doctor
    rows = {}
    for check in report.get("checks", []):
        rows.setdefault(check["precision"], []).append(check)
    worst = lambda checks: max((check.get("deviation", math.nan) for check in checks), key=lambda value: (math.isnan(value), value))
    summary = [[name, sum(check["passed"] for check in checks), len(checks), worst(checks), checks[0]["allowed"]] for name, checks in rows.items()]
    table(["layers in", "agree with the CPU's", "of", "largest deviation", "allowed"], summary)
    print(f"exit code {done.returncode}\n{done.stderr[-3000:]}\n", flush=True)
    return {"ok": done.returncode == 0, "report": report, "errors": done.stderr[-3000:]}


def noise(bench):
    """Starting noise of seeds against the published formula and `torch.randn` on the card."""
    shapes = [[8, 8], [16, 24]] if bench.tiny else [[8, 8], [64, 64], [96, 64], [128, 128]]
    seeds = SEEDS[:2] if bench.quick else SEEDS
    expected = bench.scratch / "noise.safetensors"
    bench.peer("noise", 180, seeds=seeds, shapes=shapes, out=str(expected))
    expected, found = compare.load(expected), []
    published = json.loads((REPOSITORY / "tests/reference/noise.json").read_text())["seeds"]
    for seed in seeds:
        for height, width in shapes:
            name = f"{seed}/{height}x{width}"
            request = absolute(REPOSITORY / "miniature/golden/request.json")
            scale = 4  # of the miniature's decoder
            request |= {"seed": seed, "size": [width * scale, height * scale], "steps": 2, "gamma": 0, "sag_scale": 0}
            del request["initial_latents"]
            trace, _ = bench.sample(request, f"noise/{name}")
            ours = compare.load(trace)["step.latents_in"][1][: 4 * height * width]
            row = {"seed": seed, "latents": f"{height}x{width}", "noise.json": distance(ours, published[str(seed)])}
            for kind in ("formula", "torch_single", "torch_half"):
                row[kind] = distance(ours, expected[f"{kind}/{name}"][1]) if f"{kind}/{name}" in expected else None
            # `torch_half` is rounded to half precision, and curand's logarithm near 1 in single loses up to 3e-4; another layout is off by ones.
            row["ok"] = all(row[kind] is None or row[kind] <= 1e-3 for kind in ("noise.json", "formula", "torch_single"))
            found.append(row)
    table(["seed", "latents", "max abs: noise.json", "formula", "torch.randn f32", "torch.randn f16", "ok"], [row.values() for row in found])
    return {"ok": all(row["ok"] for row in found), "seeds": found}


def distance(ours, expected):
    return max(abs(a - b) for a, b in zip(ours, expected))


def absolute(path):
    """A request whose paths do not depend on where it lies."""
    request, folder = json.loads(path.read_text()), path.parent
    request["models"] = {role: str((folder / place).resolve()) for role, place in request["models"].items()}
    if "initial_latents" in request:
        request["initial_latents"]["file"] = str((folder / request["initial_latents"]["file"]).resolve())
    return request


def parity(bench):
    """The shipped cases against their goldens, in every precision, and PyTorch's own deviation on the same device."""
    cases = [case for case in CASES if not bench.quick or case.name in QUICK_CASES]
    theirs, why, narrow = {}, None, bench.narrow()
    runs = [
        {"request": str(case / "request.json"), "prompt_from": str(case / "trace.safetensors"), "precision": precision}
        | {"out": str(bench.scratch / f"pytorch/{case.name}/{precision}.safetensors")}
        for case in cases
        for precision in ("single", *narrow)
    ]
    try:
        bench.peer("trace", 300, runs=runs)
        theirs = {run["out"]: compare.load(run["out"]) for run in runs}
    except Failed as failure:
        why = str(failure)
        print(f"PyTorch has not run the cases: {why}\n", flush=True)
    single, rounded = [], {precision: [] for precision in narrow}
    for case in cases:
        gold, meta = compare.load(case / "trace.safetensors"), json.loads((case / "meta.json").read_text())
        peer = lambda precision: theirs.get(str(bench.scratch / f"pytorch/{case.name}/{precision}.safetensors"))
        ours = ours_or_failure(bench, absolute(case / "request.json"), f"{case.name}/single")
        single.append({"case": case.name} | within(meta, gold, ours, peer("single")))
        for precision, rows in rounded.items():
            ours = ours_or_failure(bench, absolute(case / "request.json") | {"precision": precision}, f"{case.name}/{precision}")
            rows += [{"case": case.name} | row for row in deviations(gold, ours, peer(precision))]
    head = ["case, f32", "latents: ours", "PyTorch f32 here", "gradient: ours", "PyTorch f32 here", "out of tolerance"]
    table(head, [[row["case"], *row["latents_out"], *row["grad_latents"], ", ".join(row["bad"]) or "none"] for row in single])
    rounded = {precision: judge_rounded(f"case, {precision}", rows) for precision, rows in rounded.items()}
    ok = not any(row["bad"] for row in single) and all(found["ok"] for found in rounded.values())
    return {"ok": ok, "single": single, **rounded, "pytorch_failed": why}


def judge_rounded(what, rows):
    """Prints deviations in 16 bits; whether they are near PyTorch's, where those are known."""
    table([what, "tensor", "ours: rms", "PyTorch: rms", "ratio", "ours: max", "PyTorch: max", "ok"], [row.values() for row in rows])
    ratios = [row["ratio"] for row in rows if row["ratio"] and row["tensor"] != FIRST]
    mean = statistics.geometric_mean(ratios) if ratios else None
    if mean:
        print(f"geometric mean of the ratios of runs: {mean:.2f}, target at most {RUNS_RATIO}\n", flush=True)
    return {"ok": all(row["ok"] for row in rows) and (mean is None or mean <= RUNS_RATIO), "ratio": mean, "rows": rows}


def ours_or_failure(bench, request, name):
    try:
        return compare.load(bench.sample(request, name)[0])
    except Failed as failure:
        print(f"{name}: {failure}\n", flush=True)
        return None


def within(meta, gold, ours, peer):
    found = list(compare.findings(meta, gold, ours or {}))
    worst = {key: value for key, _, value, _, _ in found}
    pair = lambda key: [worst.get(key), largest(gold[key][1], peer[key][1]) if peer and key in gold and key in peer else None]
    return {
        "bad": [key for key, *_, ok in found if not ok],
        "differences": worst,
        "latents_out": pair("step.latents_out"),
        "grad_latents": pair("step.grad_latents"),
    }


def deviations(gold, ours, peer):
    """Of each tensor that rounding to 16 bits moves: root mean square and largest difference from `gold`, ours and PyTorch's."""
    for name in (FIRST, *ROUNDED_KEYS):
        key = "step.noise_pred" if name == FIRST else name
        if key not in gold:
            continue
        count = len(gold[key][1]) // (gold[key][0][0] if name == FIRST else 1)
        expected, mine, other = (trace[key][1][:count] if trace and key in trace else None for trace in (gold, ours, peer))
        measures = [[measure(expected, values) if values else None for values in (mine, other)] for measure in (rms, largest)]
        (our_rms, their_rms), (our_max, their_max) = measures
        times = ratio(our_rms, their_rms)
        ok = our_rms is not None and math.isfinite(our_rms) and (times is None or name != FIRST or times <= FIRST_RATIO)
        yield {"tensor": name, "ours_rms": our_rms, "pytorch_rms": their_rms, "ratio": times, "ours_max": our_max, "pytorch_max": their_max, "ok": ok}


def rms(expected, found):
    return (sum((a - b) ** 2 for a, b in zip(expected, found)) / len(expected)) ** 0.5


def largest(expected, found):
    return max(abs(a - b) for a, b in zip(expected, found))


def real_size(bench):
    """Two guided steps at real sizes, with random weights that PyTorch loads too: kernels that small cases never reach."""
    bundle, voxels = bench.scratch / "bundle", 16
    networks = str(MINIATURE) if bench.tiny else None
    bench.peer("random_bundle", 120, networks=networks, like=str(MINIATURE), out=str(bundle), voxels=voxels)
    models = {"diffusion": "sd", "backbone": "clip", "head": "encoder/head.safetensors", "probe": "coca"}
    request = {
        "models": {role: str(bundle / place) for role, place in models.items()},
        "objective": {"voxels": list(range(voxels)), "denominator": voxels},
        "seed": 0, "size": [bench.size, bench.size], "prompt": "", "steps": 2, "gamma": 130.0, "sag_scale": 0.75, "final_sigma": "zero",
        "probes": {"face": ["A photo of a face"], "food": ["A photo of food"]},
    }
    traces = {precision: bench.sample(request | {"precision": precision}, f"real/{precision}") for precision in ("single", "half")}
    runs = [
        {"request": str(path), "prompt_from": str(trace), "precision": precision, "out": str(bench.scratch / f"real/{precision}.safetensors")}
        for precision, (trace, path) in traces.items()
    ]
    bench.peer("trace", 180, runs=runs)
    theirs = {run["precision"]: compare.load(run["out"]) for run in runs}
    ours = {precision: compare.load(trace) for precision, (trace, _) in traces.items()}
    gold, zeros = theirs["single"], lambda key: [0.0] * len(theirs["single"][key][1])
    single = [
        {"tensor": key, "rms": rms(zeros(key), gold[key][1]), "ours_rms": rms(gold[key][1], ours["single"][key][1])} for key in ROUNDED_KEYS
    ]
    single = [row | {"relative": row["ours_rms"] / row["rms"], "ok": row["ours_rms"] <= 1e-3 * row["rms"]} for row in single]
    half = [{"case": "real size"} | row for row in deviations(gold, ours["half"], theirs["half"])]
    table(["real size, f32", "rms of it", "rms of ours − PyTorch", "relative", "ok"], [row.values() for row in single])
    half = judge_rounded("half", half)
    return {"ok": half["ok"] and all(row["ok"] for row in single), "single": single, "half": half}


def speed(bench):
    """A guided step in half precision beside PyTorch's, in turns."""
    sides = {side: {} for side in ("ours", *LAYOUTS)}
    memory, networks, failures = {}, None, []
    for turn in range(1 if bench.quick else 2):
        parts = IMAGE_PARTS if turn else NETWORK_PARTS + IMAGE_PARTS
        for batch in bench.batches:
            watch = bench.watch()
            with attempt(failures), watch.watching():
                add(sides["ours"], batch, bench.bench(batch, parts, bench.repeats))
            memory[batch] = watch.peak_bytes
        for layout in LAYOUTS:
            with attempt(failures):
                report = time_peer(bench, 240, [layout], bench.batches, [*parts, SHARED], count_launches=turn == 0)
                networks = report["networks"]
                for found in report["timed"]:
                    failures += [f"PyTorch, batch {found['batch']}: {found['failed']}"] if "failed" in found else []
                    add(sides[layout], found["batch"], found.get("parts", {}))
    found = {"ok": not failures, "networks": networks, "sides": sides, "peak_bytes": memory, "failures": failures}
    found["summary"] = summary(bench, sides, memory)
    print_speed(bench, found)
    return found


@contextlib.contextmanager
def attempt(failures):
    try:
        yield
    except (Failed, ValueError, KeyError) as failure:
        failures.append(str(failure))


def time_peer(bench, limit, layouts, batches, parts, compile=False, count_launches=False):
    task = {"networks": str(MINIATURE) if bench.tiny else None, "precision": "half", "size": bench.size, "batches": batches, "parts": parts}
    task |= {"layouts": layouts, "compile": compile, "count_launches": count_launches, "repeats": bench.repeats, "warm_up": 3}
    return bench.peer("speed", limit, **task)


def add(side, batch, parts):
    for name, cost in parts.items():
        side.setdefault(batch, {}).setdefault(name, []).append(cost)


def seconds(side, batch, part):
    costs = side.get(batch, {}).get(part)
    return statistics.median(cost["seconds"] for cost in costs) if costs else None


def per_image(side, batch, step="guided_step"):
    step, decode = seconds(side, batch, step), seconds(side, batch, "vae_forward")
    return (STEPS_PER_IMAGE * step + decode) / batch if step and decode else None


def summary(bench, sides, memory):
    """Of each batch: ours, and of PyTorch's layouts the faster one."""
    rows = []
    for batch in bench.batches:
        ours, peers = sides["ours"], [sides[layout] for layout in LAYOUTS]
        quickest = lambda step: min((found for found in (per_image(peer, batch, step) for peer in peers) if found), default=None)
        step = lambda part: min((found for found in (seconds(peer, batch, part) for peer in peers) if found), default=None)
        mine, authors, shared = per_image(ours, batch), quickest("guided_step"), quickest(SHARED)
        rows.append({
            "batch": batch, "ours_step": seconds(ours, batch, "guided_step"), "authors_step": step("guided_step"), "shared_step": step(SHARED),
            "ours_image": mine, "authors_image": authors, "shared_image": shared, "ratio_authors": ratio(mine, authors),
            "ratio_shared": ratio(mine, shared), "ours_peak_bytes": memory.get(batch),
            "pytorch_peak_bytes": most(peers, batch, "allocated_bytes"), "pytorch_reserved_bytes": most(peers, batch, "reserved_bytes"),
        })
    return rows


def most(peers, batch, name):
    """The smaller of the peaks of two layouts."""
    found = [cost.get(name) for peer in peers for cost in peer.get(batch, {}).get("guided_step", [])]
    return min((count for count in found if count), default=None)


def print_speed(bench, found):
    print(f"PyTorch's networks: {found['networks']}; half precision, {bench.size} pixels; of its two layouts the faster\n")
    gib = lambda count: count and count / 2**30
    head = ["batch", "s per step: ours", "authors'", "shared", "s per image of 50: ours", "authors'", "shared", "ratio", "to shared"]
    cells = [list(row.values()) for row in found["summary"]]
    table([*head, "GiB: ours, of the card", "PyTorch, allocated", "reserved"], [[*row[:9], *map(gib, row[9:])] for row in cells])
    sides, rows = found["sides"], []
    for batch in bench.batches:
        for part in NETWORK_PARTS + IMAGE_PARTS + [SHARED]:
            mine = seconds(sides["ours"], batch, "guided_step" if part == SHARED else part)
            others = [seconds(sides[layout], batch, part) for layout in LAYOUTS]
            known = [other for other in others if other]
            rows.append([batch, part, mine, *others, ratio(mine, min(known)) if known else None])
    table(["batch", "part", "ours, s", "PyTorch, s", "PyTorch channels_last, s", "ratio to the faster"], rows)
    for side, name in (("ours", "ours"), (LAYOUTS[0], "PyTorch")):
        for batch in bench.batches:
            for part in ("guided_step", SHARED):
                for cost in sides[side].get(batch, {}).get(part, [])[:1]:
                    counts = cost.get("device") or {"launches": cost.get("launches")}
                    print(f"{name}, batch {batch}, {part}: {counts}") if counts.get("launches") else None
    print_targets(found["summary"])
    for failure in found["failures"]:
        print(f"failed: {failure}\n", flush=True)


def print_targets(rows):
    said = lambda value, target: f"{value:.3g}, target at most {target}: {'met' if value <= target else 'MISSED'}" if value else "not measured"
    mine, theirs = ([row[name] for row in rows if row[name]] for name in ("ours_image", "authors_image"))
    print(f"seconds per image, ours to PyTorch's, batch 1: {said(rows[0]['ratio_authors'], TARGET_RATIO)}")
    print(f"each at its best batch: {said(ratio(min(mine, default=None), min(theirs, default=None)), TARGET_RATIO)}")
    print(f"seconds per image at the best batch (target for an H100): {said(min(mine, default=None), TARGET_SECONDS)}\n", flush=True)


def busy(bench):
    """Share of the time in which the card worked during steps that follow one another, and the memory it took."""
    batch, watch = bench.batches[-1], bench.watch()
    with watch.watching():
        bench.bench(batch, ["guided_step"], 3 if bench.quick else 30)
    print(f"batch {batch}: busy share {watch.busy_share}, peak bytes {watch.peak_bytes}\n", flush=True)
    return {"batch": batch, "busy_share": watch.busy_share, "peak_bytes": watch.peak_bytes}


def compiled(bench):
    """PyTorch once more, its networks compiled by `torch.compile`, at batch 1."""
    report = time_peer(bench, 150, LAYOUTS[:1], [1], ["guided_step", SHARED, "vae_forward"], compile=True)
    (found,) = report["timed"]
    rows = [[name, cost["seconds"], cost["fastest"], cost["slowest"]] for name, cost in found["parts"].items()]
    table(["PyTorch, compiled, batch 1", "s", "fastest", "slowest"], rows)
    return report


PARTS = {part.__name__: part for part in (facts, doctor, noise, parity, speed, real_size, busy, compiled)}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--worker", type=pathlib.Path, required=True)
    arguments.add_argument("--device", default="cuda:0")
    arguments.add_argument("--out", type=pathlib.Path, required=True, help="folder for figures.json")
    arguments.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    arguments.add_argument("--quick", action="store_true", help="fewer cases, batches and repetitions")
    arguments.add_argument("--tiny", action="store_true", help="the miniature's networks instead of Stable Diffusion 2.1-base")
    options = arguments.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    place, failed = options.out / "figures.json", []
    figures = json.loads(place.read_text()) if place.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(options, pathlib.Path(scratch))
        for name in options.parts:
            print(f"## {name}: {PARTS[name].__doc__}\n", flush=True)
            begin = time.monotonic()
            try:
                figures[name] = PARTS[name](bench)
                failed += [] if figures[name].get("ok", True) else [name]
            except Exception as failure:  # whatever it is, the other parts are worth having
                figures[name] = {"failed": f"{type(failure).__name__}: {failure}"}
                failed.append(name)
                print(f"FAILED: {figures[name]['failed']}\n", flush=True)
            figures.setdefault("seconds", {})[name] = round(time.monotonic() - begin, 1)
            place.write_text(json.dumps(figures, indent=1))
    print(f"seconds: {figures['seconds']}; failed or out of bounds: {', '.join(failed) or 'none'}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
