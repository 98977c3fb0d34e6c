"""Figures by NumPy and SciPy, for tests/metrics.rs.

Run: python3 metrics.py > metrics.json (pip install numpy scipy).
"""

import json

import numpy
from scipy import stats


def case(seed, count, steps):
    """`steps` > 0 rounds to so many steps, which makes ties."""
    random = numpy.random.default_rng(seed)
    target = random.random(count)
    predicted = 0.7 * target + 0.3 * random.normal(size=count)
    if steps:
        target, predicted = numpy.round(target * steps) / steps, numpy.round(predicted * steps) / steps
    error = predicted - target
    return {
        "predicted": predicted.tolist(),
        "target": target.tolist(),
        "ranks": stats.rankdata(predicted).tolist(),
        "mse": float((error**2).mean()),
        "mae": float(numpy.abs(error).mean()),
        "r2": float(1 - (error**2).sum() / ((target - target.mean()) ** 2).sum()),
        "pearson": float(stats.pearsonr(predicted, target)[0]),
        "spearman": float(stats.spearmanr(predicted, target)[0]),
    }


if __name__ == "__main__":
    print(json.dumps([case(0, 30, 0), case(1, 50, 8), case(2, 3, 0), case(3, 40, 2), case(4, 120, 20)]))
