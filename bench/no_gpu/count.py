"""Counts the calls of CUDA's driver that a decode step of the toy makes, on a machine without a GPU.

  python3 bench/no_gpu/run.py cargo build --features tpv/cuda
  python3 bench/no_gpu/run.py python3 bench/no_gpu/count.py target/no_gpu/target/debug/tpv

Says what a step asks of the driver and not how long it takes. One JSON line for each batch.
"""

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

STEPS = 20


def calls(program, folder, batch, tokens):
    """All calls of a run that makes `tokens` tokens for each of `batch` problems at once."""
    counts = folder / f"calls_{batch}_{tokens}"
    line = f"generate --model thinker --dataset thinker --device cuda --end_problem_index {batch} --max_batch {batch} " \
           f"--generations_per_problem 1 --max_new_tokens {tokens} --draft_tokens 0 --output_dir {folder}/{batch}_{tokens}"
    subprocess.run([program, *line.split()], env=os.environ | {"CUDA_CALLS": str(counts)}, capture_output=True, check=True)
    return {name: int(count) for name, count in (line.split() for line in counts.read_text().splitlines())}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for batch in args.batch:
            short, long = (calls(args.program.resolve(), Path(folder), batch, 1 + steps) for steps in (STEPS, 2 * STEPS))
            step = {name: round((count - short.get(name, 0)) / STEPS, 2) for name, count in sorted(long.items())}
            step = {name: count for name, count in step.items() if count}
            print(json.dumps({"batch": batch, "calls_in_a_step": round(sum(step.values()), 1), **step}))


if __name__ == "__main__":
    main()
