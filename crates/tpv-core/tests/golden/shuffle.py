"""Splits by Python's own random module, for src/split.rs.

Run: python3 shuffle.py > shuffle.json (no packages needed).
"""

import json
import random


def case(seed, count, ratio):
    folders = sorted(f"problem_{number}" for number in range(count))
    random.seed(seed)
    random.shuffle(folders)
    problems = [int(folder.split("_")[1]) for folder in folders]
    train = int(count * ratio)
    return {"seed": seed, "count": count, "ratio": ratio, "train": problems[:train], "test": problems[train:]}


if __name__ == "__main__":
    seeds = [0, 1, 42, 1234, 2**31, 2**32 - 1, 2**32, 2**53 + 7, 2**64 - 1]
    shapes = [(30, 0.8), (101, 0.7), (8, 0.5)]
    cases = [case(seed, *shape) for seed in seeds for shape in shapes]
    print(json.dumps(cases + [case(42, 700, 0.9), case(42, 1, 0.8), case(42, 0, 0.8)]))
