"""Runs a command with stand-ins for CUDA's compiler, libraries and driver, on a machine that has neither toolkit nor GPU.

  python3 bench/no_gpu/run.py cargo test -p tpv-engine --features cuda
  python3 bench/no_gpu/run.py cargo build --features tpv/cuda
  python3 bench/no_gpu/run.py target/no_gpu/target/debug/tpv generate --model thinker --dataset thinker --device cuda

candle's kernels, compiled as C++, and the matrix products are computed by the CPU, a launch at a time: the numbers are those of
a GPU up to rounding, the times are not, and nothing runs beside something else. Needs g++ on x86-64 Linux, pip, and the first
time some 20 minutes for the build. All of it lies in target/no_gpu.
"""

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PLACE = ROOT / "target/no_gpu"
LIBRARIES = ["cublas", "cublasLt", "curand", "cudart", "nvrtc"]
KERNELS = ["affine", "binary", "cast", "fill", "indexing", "reduce", "ternary", "unary"]
HEADERS = [f"nvidia-cuda-{part}==13.0.*" for part in ("runtime", "crt", "cccl")]


def output_of(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout


def kernel_sources():
    metadata = json.loads(output_of("cargo", "metadata", "--format-version", "1", "--features", "tpv/cuda"))
    package = next(package for package in metadata["packages"] if package["name"] == "candle-kernels")
    return Path(package["manifest_path"]).parent / "src"


def compiler_flags():
    headers = PLACE / "headers/nvidia/cu13/include"
    if not headers.exists():
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--target", PLACE / "headers", *HEADERS], check=True)
    # Kernels read several half floats as one float4.
    language = ["-std=c++17", "-fno-strict-aliasing", "-O2", "-w", "-fPIC", "-x", "c++"]
    return [*language, "-I", headers, "-I", headers / "cccl", "-include", HERE / "kernels.hpp"]


def kernels(source, flags):
    """The kernels of a source as an object that registers each by its name."""
    preprocessed = output_of("g++", *flags, "-E", "-P", "-DLIST_KERNELS", source)
    names = sorted(set(re.findall(r'extern "C"\s+A_KERNEL\s+void\s+(\w+)', preprocessed)))
    register = (f'static on_cpu::Registered kernel_{name}("{name}", on_cpu::Caller<&{name}>::with);' for name in names)
    out = PLACE / f"{source.stem}.o"
    text = "\n".join([f'#include "{source}"', *register])
    subprocess.run(["g++", *flags, "-c", "-", "-o", out], input=text, text=True, check=True)
    return out


def make_libraries(lib):
    flags = compiler_flags()
    sources = [kernel_sources() / f"{name}.cu" for name in KERNELS]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda source: kernels(source, flags), sources))
    subprocess.run(["g++", *flags, "-c", HERE / "device.cpp", "-o", PLACE / "device.o"], check=True)
    subprocess.run(["cc", "-O2", "-w", "-fPIC", "-c", HERE / "driver.c", "-o", PLACE / "driver.o"], check=True)
    objects += [PLACE / "device.o", PLACE / "driver.o"]
    # Every source has the helpers of candle's headers.
    subprocess.run(["g++", "-shared", "-Wl,-z,muldefs", "-o", lib / "libcuda.so", *objects], check=True)


def main():
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    lib, binaries = PLACE / "lib", PLACE / "bin"
    for folder in (lib, binaries):
        folder.mkdir(parents=True, exist_ok=True)
    made = lib / "libcuda.so"
    if not made.exists() or made.stat().st_mtime < max(file.stat().st_mtime for file in HERE.iterdir()):
        (binaries / "nvcc").write_text((HERE / "nvcc").read_text())
        (binaries / "nvcc").chmod(0o755)
        for name in LIBRARIES:
            subprocess.run(["cc", "-shared", "-x", "c", "/dev/null", "-o", lib / f"lib{name}.so"], check=True)
        make_libraries(lib)
    environment = os.environ | {
        "CUDA_HOME": str(PLACE), "CUDA_PATH": str(PLACE), "CUDA_COMPUTE_CAP": "90", "CUDARC_CUDA_VERSION": "13000",
        "CARGO_TARGET_DIR": str(PLACE / "target"), "LIBRARY_PATH": str(lib), "LD_LIBRARY_PATH": str(lib),
        "PATH": f"{binaries}:{os.environ['PATH']}", "TPV_TEST_DEVICE": "cuda",
    }
    os.execvpe(sys.argv[1], sys.argv[1:], environment)


if __name__ == "__main__":
    main()
