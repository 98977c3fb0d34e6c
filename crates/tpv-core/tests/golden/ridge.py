"""Ridge fits by NumPy, for tests/gram_fit.rs.

Run: python3 ridge.py > ridge.json (pip install numpy).
"""

import json

import numpy


def fit(states, target, epsilon, intercept):
    states = states.astype(numpy.float64)
    state_mean = states.mean(axis=0) if intercept else numpy.zeros(states.shape[1])
    target_mean = target.mean() if intercept else 0.0
    centred, rest = states - state_mean, target - target_mean
    gram = centred.T @ centred + epsilon * numpy.eye(states.shape[1])
    weights = numpy.linalg.solve(gram, centred.T @ rest)
    constant = target_mean - state_mean @ weights
    error = ((states @ weights + constant - target) ** 2).mean()
    return weights, constant, error, 1 - error / target.var()


def case(seed, rows, width, epsilon, intercept):
    random = numpy.random.default_rng(seed)
    mixing = numpy.eye(width) + 0.3 * random.normal(size=(width, width))
    states = (random.normal(size=(rows, width)) @ mixing + random.normal(size=width)).astype(numpy.float32)
    states = numpy.round(states, 3)
    targets = [numpy.round(random.random(rows), 4), numpy.round(numpy.log1p(100 * random.random(rows)), 4)]
    fits = [fit(states, target, epsilon, intercept) for target in targets]
    return {
        "width": width,
        "epsilon": epsilon,
        "intercept": intercept,
        "states": [float(value) for value in states.reshape(-1)],
        "targets": [target.tolist() for target in targets],
        "weights": [found[0].tolist() for found in fits],
        "intercepts": [float(found[1]) for found in fits],
        "train_mse": [float(found[2]) for found in fits],
        "train_r2": [float(found[3]) for found in fits],
    }


if __name__ == "__main__":
    cases = [
        case(0, 40, 6, 1e-10, False),
        case(1, 40, 6, 1e-10, True),
        case(2, 12, 20, 0.5, False),
        case(3, 12, 20, 0.5, True),
        case(4, 5, 1, 1e-10, True),
    ]
    print(json.dumps(cases))
