"""Times soft EM for von Mises-Fisher mixtures (Banerjee et al. 2005) in NumPy and SciPy and here, in turns, from the same starts.

    cargo bench --bench cluster --no-run
    VENV/bin/python braindive/benches/cluster.py target/release/deps/cluster-... [--threads 2] [--rounds 3] [--rows 2000]

Rows of 512 around four directions, float32 as an encoder's weights are; both sides compute in float64, with the same first
concentrations and shares, and stop by the same rule. The steps of every start and where they end are compared."""
import argparse, json, os, pathlib, subprocess, tempfile, time

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("bench")
arguments.add_argument("--threads", type=int, default=2)
arguments.add_argument("--rounds", type=int, default=3)
arguments.add_argument("--rows", type=int, default=2000)
options = arguments.parse_args()
# Before NumPy starts its threads.
os.environ |= {name: str(options.threads) for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")}
import numpy as np
from scipy.special import ive

DIMENSION, STARTS, KS = 512, 10, range(2, 7)


def regions_rows(draw):
    """Around four directions with something in common, weakly: [rows, 512], of different lengths."""
    centres = 0.6 * draw.normal(size=DIMENSION) + draw.normal(size=(4, DIMENSION))
    labels = draw.choice(4, size=options.rows, p=(0.4, 0.3, 0.2, 0.1))
    rows = centres[labels] + 2.5 * draw.normal(size=(options.rows, DIMENSION))
    return (rows * draw.uniform(0.2, 2.0, (options.rows, 1))).astype(np.float32)


def log_density_constant(kappa):
    order = DIMENSION / 2 - 1
    return order * np.log(kappa) - DIMENSION / 2 * np.log(2 * np.pi) - np.log(ive(order, kappa)) - kappa


def em(rows, means):
    """The log-likelihood per row before every step."""
    n, k = len(rows), len(means)
    kappa, alpha, course = np.full(k, float(DIMENSION)), np.full(k, 1 / k), []
    while len(course) < 200:
        scores = rows @ (kappa[:, None] * means).T
        scores += np.log(alpha) + log_density_constant(kappa)
        best = scores.max(1, keepdims=True)
        scores -= best
        np.exp(scores, out=scores)
        total = scores.sum(1, keepdims=True)
        course.append(float((best + np.log(total)).mean()))
        scores /= total
        weight, resultant = scores.sum(0), scores.T @ rows
        length = np.linalg.norm(resultant, axis=1)
        alpha, means, mean_length = weight / n, resultant / length[:, None], length / weight
        kappa = (mean_length * DIMENSION - mean_length**3) / (1 - mean_length**2)
        if len(course) > 1 and abs(course[-1] - course[-2]) < 1e-10 * abs(course[-2]):
            break
    return course


def main():
    draw = np.random.default_rng(1)
    raw = regions_rows(draw)
    rows = raw.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    starts = {k: [draw.choice(options.rows, size=k, replace=False).tolist() for _ in range(STARTS)] for k in KS}
    theirs, ours = {k: [] for k in KS}, {k: [] for k in KS}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        raw.tofile(folder / "rows")
        (folder / "starts").write_text(json.dumps(starts))
        for _ in range(options.rounds):
            courses = {}
            for k in KS:
                begin, cpu = time.perf_counter(), time.process_time()
                courses[k] = [em(rows, rows[start]) for start in starts[k]]
                theirs[k].append((time.perf_counter() - begin, time.process_time() - cpu))
            printed = subprocess.run([options.bench, folder / "rows", folder / "starts"], capture_output=True, text=True, check=True).stdout
            for found in map(json.loads, printed.splitlines()):
                k = found["k"]
                ours[k].append((found["seconds"], found["cpu"]))
                assert found["steps"] == [len(course) for course in courses[k]], (k, found["steps"], [len(course) for course in courses[k]])
                assert np.allclose(found["log_likelihood"], [course[-1] for course in courses[k]], rtol=1e-9), k
    print("| k | steps | NumPy s | CPU s | ours s | CPU s | ratio | of CPU |\n|---|---|---|---|---|---|---|---|")
    for k in KS:
        their_s, their_cpu, our_s, our_cpu = (min(column) for side in (theirs[k], ours[k]) for column in zip(*side))
        steps = sum(map(len, courses[k]))
        print(f"| {k} | {steps} | {their_s:.2f} | {their_cpu:.2f} | {our_s:.2f} | {our_cpu:.2f} | {our_s / their_s:.2f} | {our_cpu / their_cpu:.2f} |")


main()
