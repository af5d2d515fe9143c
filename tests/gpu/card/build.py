"""Makes NVIDIA's libraries for a card of the host's memory: python3 tests/gpu/card/build.py FOLDER. A C++ compiler is all that it needs.

Functions that a worker may call and that driver.cpp, blas.cpp and cudnn.cpp lack end the process with their name.
"""

import pathlib, re, subprocess, sys, tempfile

HERE = pathlib.Path(__file__).resolve().parent
GPU = HERE.parents[2] / "gpu"
LIBRARIES = {"driver": "libcuda.so.1", "cublas": "libcublas.so.12", "cublas_lt": "libcublasLt.so.12", "curand": "libcurand.so.10", "nvrtc": "libnvrtc.so.12", "cudnn": "libcudnn.so.9"}
# Looked for beside cuDNN, and never opened here.
PARTS = ["graph", "ops", "cnn", "heuristic", "engines_precompiled"]
# As gpu/build/emulation.rs compiles the kernels.
EMULATION = "-std=c++20 -O2 -fPIC -w -DEMULATION -ffp-contract=off -fno-strict-aliasing -fno-exceptions -U_FORTIFY_SOURCE".split()
CARD = "-std=c++20 -O2 -fPIC -Wall -Wextra".split()


def functions(library):
    """What a worker may call of a library."""
    text = (GPU / "src/libraries/functions.rs").read_text()
    (listed,) = re.findall(rf'mod {library} \{{.*?"[^"]*":(.*?)\n    \}}', text, re.S)
    return [name for name in re.findall(r"\w+", listed) if name != "newer"]


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    sources = [HERE / name for name in ("driver.cpp", "candle.cpp", "blas.cpp", "cudnn.cpp")] + [GPU / "tests/driver.c"]
    written = {name for source in sources for name in re.findall(r"^(?:int|unsigned long) (cu\w+)\(", source.read_text(), re.M)}
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)

        def compile(source, name, flags):
            compiler = ["gcc", "-fPIC"] if source.suffix == ".c" else ["g++", *flags]
            subprocess.run([*compiler, "-c", "-o", scratch / name, source], check=True)
            return scratch / name

        kernels = [compile(GPU / "kernels/emulation/kernels.cpp", f"{element}.o", [*EMULATION, f"-DELEMENT_{element}"]) for element in ("F32", "F16", "BF16")]
        kernels.append(compile(GPU / "kernels/emulation/launch.cpp", "launch.o", EMULATION))
        parts = [compile(source, source.name + ".o", CARD) for source in sources]
        for library, file in LIBRARIES.items():
            stubs = scratch / f"{library}.cpp"
            stub = 'extern "C" int {0}() {{ fprintf(stderr, "card: {0} is not there\\n"); abort(); }}\n'
            missing = [name for name in functions(library) if name not in written]
            stubs.write_text("#include <cstdio>\n#include <cstdlib>\n" + "".join(map(stub.format, missing)))
            objects = [compile(stubs, f"{library}.stubs.o", CARD)] + (parts + kernels if library == "driver" else [])
            others = [] if library == "driver" else ["-Wl,--no-as-needed", f"-L{folder}", "-l:libcuda.so.1"]
            subprocess.run(["g++", "-shared", "-o", folder / file, *objects, *others], check=True)
    for part in PARTS:
        (folder / f"libcudnn_{part}.so.9").touch()


main()
