"""Counts the calls of CUDA's driver that a decode step of the toy makes, on a machine without a GPU.

  at=$PWD/target/no_gpu; mkdir -p $at/bin && cp bench/no_gpu/nvcc $at/bin/
  for name in cuda cublas cublasLt curand cudart nvrtc; do cc -shared -x c /dev/null -o $at/lib$name.so; done
  CUDA_HOME=$at CUDA_PATH=$at CUDA_COMPUTE_CAP=90 CUDARC_CUDA_VERSION=13000 PATH=$at/bin:$PATH LIBRARY_PATH=$at \\
    RUSTFLAGS="-C link-arg=-Wl,--unresolved-symbols=ignore-all" cargo build --features tpv/cuda --target-dir $at/target
  python3 bench/no_gpu/count.py $at/target/debug/tpv

Nothing is computed: what a step takes is not measured here, only what it asks of the driver. One JSON line for each batch.
"""

import argparse
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
STEPS = 100


def stand_in(program, folder):
    """The driver as a library, with every other name that the program lacks as a counted function."""
    source = (HERE / "driver.c").read_text()
    lines = subprocess.run(["nm", "-D", "--undefined-only", program], capture_output=True, text=True, check=True).stdout
    lacking = {line.split()[-1] for line in lines.splitlines()}
    known = set(re.findall(r"^int (\w+)\(", source, re.M))
    named = sorted(name for name in lacking - known if re.match(r"(cu|cublas|curand|launch_|moe_)\w*$", name))
    others = sorted(name for name in lacking - known - set(named) if re.match(r"[A-Za-z]\w*$", name))
    more = [f"int {name}() {{ COUNT({name}); return 0; }}" for name in named] + [f"int {name}() {{ return 0; }}" for name in others]
    path = folder / "driver.so"
    text = "\n".join([source, *more])
    subprocess.run(["cc", "-shared", "-fPIC", "-w", "-x", "c", "-", "-o", path], input=text, text=True, check=True)
    return path


def calls(program, library, folder, batch, tokens):
    """All calls of a run that makes `tokens` tokens for each of `batch` problems at once."""
    counts = folder / f"calls_{batch}_{tokens}"
    line = f"generate --model thinker --dataset thinker --device cuda --end_problem_index {batch} --max_batch {batch} " \
           f"--generations_per_problem 1 --max_new_tokens {tokens} --draft_tokens 0 --output_dir {folder}/{batch}_{tokens}"
    environment = os.environ | {"LD_PRELOAD": str(library), "CUDA_CALLS": str(counts)}
    subprocess.run([program, *line.split()], env=environment, capture_output=True, check=True)
    return {name: int(count) for name, count in (line.split() for line in counts.read_text().splitlines())}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        program = args.program.resolve()
        library = stand_in(program, folder)
        for batch in args.batch:
            short, long = (calls(program, library, folder, batch, 1 + steps) for steps in (STEPS, 2 * STEPS))
            step = {name: round((count - short.get(name, 0)) / STEPS, 2) for name, count in sorted(long.items())}
            step = {name: count for name, count in step.items() if count}
            print(json.dumps({"batch": batch, "calls_in_a_step": round(sum(step.values()), 1), **step}))


if __name__ == "__main__":
    main()
