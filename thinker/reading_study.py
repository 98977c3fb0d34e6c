"""Which filter reads thinking best? Candidates for the reader compared on validation problems of the toy thinker.

    pip install torch numpy safetensors tokenizers scipy
    python3 reading_study.py --model model --work /tmp/study      # about ten minutes on one core, then cached

Heads are fitted on problems of the stream 'train', the candidates on half of the problems of the stream 'val', and
compared on the other half; 'test' problems are not touched. Every candidate sees the two heads' values and the position,
none looks ahead. Reported: mean absolute error of progress (j / N) and of the remaining tokens (N - j), over tokens.
"""
import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
import torch
from torch import nn

import evaluate
from problems import sample_stream

FAMILIES = ["Ledger", "Boxes"]


def traces(model, folder, name, seed, sampling_seed, n=200, repeats=2):
    path = f"{folder}/{name}.npz"
    if not os.path.exists(path):
        problems = [p["problem"] for p in sample_stream(name, n, seed, FAMILIES)]
        outs = evaluate.generate(model, problems * repeats, seed=sampling_seed, record=True, chunk=100)
        finished = [(k % n, o) for k, o in enumerate(outs) if o["thinking_tokens"] and o["ended"]]
        kept = [(k, o["states"][:o["thinking_tokens"]]) for k, o in finished]
        np.savez(path, ids=[i for i, _ in kept], lengths=[len(h) for _, h in kept], states=np.concatenate([h for _, h in kept]))
    z = np.load(path)
    states = np.split(z["states"].astype(np.float64), np.cumsum(z["lengths"])[:-1])
    return [dict(id=int(i), N=len(h), h=h, j=np.arange(1.0, len(h) + 1)) for i, h in zip(z["ids"], states)]


def fit_heads(ts):
    x = np.concatenate([np.c_[t["h"], np.ones(t["N"])] for t in ts])
    y = np.concatenate([np.c_[t["j"] / t["N"], np.log1p(t["N"] - t["j"])] for t in ts])
    return np.linalg.solve(x.T @ x + 1e-10 * np.eye(x.shape[1]), x.T @ y)


def read_heads(ts, w):
    for t in ts:
        t["p"], t["r"] = (np.c_[t.pop("h"), np.ones(t["N"])] @ w).T


def average(x, weight):
    """Exponential average; the weight is a number or a function of the count."""
    y, s = np.empty_like(x), 0.0
    for k, v in enumerate(x):
        s += (weight(k + 1) if callable(weight) else max(weight, 1 / (k + 1))) * (v - s)
        y[k] = s
    return y


FAST, SLOW, ALL, QUARTER = 0.1, 0.02, 1e-9, lambda k: 4 / (k + 3)


def columns(t, slow=QUARTER, products=True, lengths=True, averages=True):
    j, p, r = t["j"], t["p"], np.maximum(t["r"], -1)
    lj, pf, rf = np.log(j), average(p, FAST), average(r, FAST)
    n, q = np.log(j + np.exp(np.maximum(r, 0))), np.log(j / np.clip(pf, 0.02, 1))
    f = [np.ones_like(j), lj, lj ** 2, p, r, pf, rf]
    if averages:
        f += [average(p, slow), average(r, slow), average(p, ALL), average(r, ALL)]
    if lengths:
        f += [n, average(n, FAST), average(n, slow), average(n, ALL), q, average(q, slow), average(q, ALL)]
    if products:
        f += [pf * pf, pf * rf, rf * rf, pf * lj, rf * lj]
    return np.stack(f, 1)


def scaled(fit, other, build):
    a = np.concatenate([build(t) for t in fit])
    mean, spread = a.mean(0), a.std(0) + 1e-9
    mean[0], spread[0] = 0, 1
    return (a - mean) / spread, [(build(t) - mean) / spread for t in other]


def quantile_fit(a, y, q=0.5, ridge=1e-3, rounds=24):
    """Majorise-minimise on the pinball loss (Hunter and Lange 2000)."""
    w, eye = np.zeros(a.shape[1]), 0.5 * ridge * len(a) * np.diag([1e-9] + [1] * (a.shape[1] - 1))
    for k in range(rounds):
        weighted = a * (0.5 / (1e-3 + 0.7 ** k + np.abs(y - a @ w)))[:, None]
        w = np.linalg.solve(weighted.T @ a + eye, weighted.T @ y + (q - 0.5) * a.sum(0))
    return w


def isotonic(x, y, bins=400):
    """Pool adjacent violators on binned points -> knots for interpolation."""
    order, blocks = np.argsort(x, kind="stable"), []
    for part in np.array_split(order, bins):
        blocks.append([x[part].mean(), x[part].mean(), y[part].mean(), len(part)])
        while len(blocks) > 1 and blocks[-2][2] >= blocks[-1][2]:
            b, a = blocks.pop(), blocks.pop()
            blocks.append([a[0], b[1], (a[2] * a[3] + b[2] * b[3]) / (a[3] + b[3]), a[3] + b[3]])
    return [v for b in blocks for v in b[:2]], [v for b in blocks for v in (b[2], b[2])]


class Grid:
    """A Bayesian filter over the total length on a logarithmic grid: Gaussian model of the two heads given (j, N), its
    log-likelihood tempered by tau for lasting errors, the posterior mixed with the prior by `leak` at each step."""

    def __init__(s, fit, weight, tau, leak, size=128, parts=5):
        s.n, s.weight, s.tau, s.leak, s.parts = np.exp(np.linspace(np.log(16), np.log(2500), size)), weight, tau, leak, parts
        d = (np.log(s.n)[:, None] - np.log([t["N"] for t in fit])) / 0.25
        prior = np.exp(-0.5 * d * d).sum(1) + 0.03 * len(fit) / size
        s.prior = prior / prior.sum()
        x = np.concatenate([s.phi(t["j"], np.full(t["N"], float(t["N"]))) for t in fit])
        z = np.concatenate([s.heads(t) for t in fit])
        s.c = np.linalg.solve(x.T @ x + 1e-5 * len(x) * np.eye(x.shape[1]), x.T @ z)
        part = np.concatenate([s.part(t["j"] / t["N"]) for t in fit])
        s.precision = np.array([np.linalg.inv(np.cov((z - x @ s.c)[part == k].T)) for k in range(parts)])
        s.logdet = 0.5 * np.linalg.slogdet(s.precision)[1]

    def heads(s, t):
        return np.stack([average(t["p"], s.weight), average(t["r"], s.weight)], 1)

    def part(s, u):
        return np.minimum((u * s.parts).astype(int), s.parts - 1)

    def phi(s, j, n):
        u, r, l = np.minimum(j / n, 1), np.log1p(np.maximum(n - j, 0)), np.log(n)
        return np.stack([np.ones_like(n), u, u * u, u ** 3, r, r * r, r * u, l, l * u], 1)

    def remaining(s, t):
        post, z, out = s.prior.copy(), s.heads(t), np.empty(t["N"])
        for k in range(t["N"]):
            e, b = z[k] - s.phi(k + 1.0, s.n) @ s.c, s.part(np.minimum((k + 1) / s.n, 1))
            ll = s.tau * (s.logdet[b] - 0.5 * np.einsum("ni,nij,nj->n", e, s.precision[b], e))
            post = ((1 - s.leak) * post + s.leak * s.prior) * np.exp(ll - ll.max()) * (s.n >= k + 0.5)
            post /= post.sum()
            out[k] = max(np.exp(np.interp(0.5, np.cumsum(post), np.log(s.n))) - k - 1, 0)
        return out


def gru(fit, other, hidden=16, epochs=60):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    x = lambda t: np.stack([t["p"], t["r"] / 3 - 1, np.log(t["j"]) / 3 - 1, average(t["p"], FAST), average(t["r"], FAST) / 3 - 1], 1)

    def batch(ts):
        m = max(t["N"] for t in ts)
        a = [np.zeros((len(ts), m, k)) for k in (5, 2, 1)]
        for k, t in enumerate(ts):
            a[0][k, :t["N"]], a[2][k, :t["N"]] = x(t), 1
            a[1][k, :t["N"]] = np.stack([np.log1p(t["N"] - t["j"]), t["j"] / t["N"]], 1)
        return [torch.tensor(v, dtype=torch.float32) for v in a]
    cell, out = nn.GRU(5, hidden, batch_first=True), nn.Linear(hidden + 5, 2)
    run = lambda v: out(torch.cat([cell(v)[0], v], -1))
    parts = list(cell.parameters()) + list(out.parameters())
    opt, scale = torch.optim.Adam(parts, lr=5e-3), torch.tensor([1.0, 4.0])
    loss = lambda b: ((run(b[0]) - b[1]).abs() * scale * b[2]).sum() / b[2].sum()
    stop, train = batch([t for t in fit if t["id"] // 2 % 5 == 0]), [t for t in fit if t["id"] // 2 % 5]
    best = (9e9, None)
    for epoch in range(epochs):
        for part in np.array_split(np.random.RandomState(epoch).permutation(len(train)), 6):
            opt.zero_grad()
            loss(batch([train[k] for k in part])).backward()
            nn.utils.clip_grad_norm_(parts, 1.0)
            opt.step()
        with torch.no_grad():
            best = min(best, (float(loss(stop)), [p.clone() for p in parts]), key=lambda b: b[0])
    with torch.no_grad():
        for p, b in zip(parts, best[1]):
            p.copy_(b)
        z = [run(torch.tensor(x(t)[None], dtype=torch.float32))[0].numpy() for t in other]
    return [np.clip(v[:, 1], 0, 1) for v in z], [np.maximum(np.expm1(v[:, 0]), 0) for v in z]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--model", default="model")
    ap.add_argument("--work", default="/tmp/study")
    a = ap.parse_args()
    os.makedirs(a.work, exist_ok=True)
    torch.set_num_threads(1)
    model = evaluate.load(a.model)
    val, w = traces(model, a.work, "val", 11, 101), fit_heads(traces(model, a.work, "train", 12, 102))
    read_heads(val, w)
    halves = [[t for t in val if t["id"] % 2 == k] for k in (0, 1)]
    print(f"{len(val)} traces; each half fits, the other half is measured; mean of the two")
    figures = {}
    for fit, other in (halves, halves[::-1]):
        compare(fit, other, figures)
    for name, f in figures.items():
        p, r = np.mean(f, 0)
        print(f"{name:58s} progress {p:.4f}" + ("" if np.isnan(r) else f"   remaining {r:6.1f}"))


def compare(fit, other, figures):
    clip = lambda x: np.clip(x, 0, 1)
    tokens = lambda x: np.maximum(np.expm1(np.clip(x, 0, 9)), 0)
    cat = lambda f, ts: np.concatenate([f(t) for t in ts])
    u, left = cat(lambda t: t["j"] / t["N"], other), cat(lambda t: t["N"] - t["j"], other)
    y = cat(lambda t: np.log1p(t["N"] - t["j"]), fit)

    def row(name, progress, remaining=None):
        e = np.nan if remaining is None else np.abs(np.concatenate(remaining) - left).mean()
        figures.setdefault(name, []).append((np.abs(np.concatenate(progress) - u).mean(), e))
    ratio = lambda rem: [t["j"] / (t["j"] + e) for t, e in zip(other, rem)]
    lengths = np.sort([t["N"] for t in fit]).astype(float)
    row("constant length (median)", [np.minimum(t["j"] / np.median(lengths), 1) for t in other], [np.maximum(np.median(lengths) - t["j"], 0) for t in other])
    rest = {j: np.median(lengths[lengths >= j]) if j <= lengths[-1] else j for j in range(1, 2500)}
    n = [np.array([rest[int(j)] for j in t["j"]]) for t in other]
    row("position (median of the lengths still possible)", [t["j"] / m for t, m in zip(other, n)], [m - t["j"] for t, m in zip(other, n)])
    row("heads, raw", [clip(t["p"]) for t in other], [tokens(t["r"]) for t in other])
    for k in (0.1, 0.2):
        row(f"heads, EMA {k}", [clip(average(t["p"], k)) for t in other], [tokens(average(t["r"], k)) for t in other])
    row("running maximum of EMA 0.1", [np.maximum.accumulate(clip(average(t["p"], FAST))) for t in other])
    knots_p = isotonic(cat(lambda t: average(t["p"], FAST), fit), cat(lambda t: t["j"] / t["N"], fit))
    knots_r = isotonic(cat(lambda t: average(t["r"], FAST), fit), y)
    row("isotonic on EMA 0.1", [np.interp(average(t["p"], FAST), *knots_p) for t in other], [tokens(np.interp(average(t["r"], FAST), *knots_r)) for t in other])
    row("GRU, 16 units, on the scalar series", *gru(fit, other))
    for weight, tau, leak in ((1.0, 0.03, 0.0), (1.0, 0.1, 0.03), (1.0, 0.2, 0.03), (FAST, 0.05, 0.05)):
        grid = Grid(fit, weight, tau, leak)
        rem = [grid.remaining(t) for t in other]
        row(f"grid filter over N, EMA {weight}, tempered {tau}, leak {leak}", ratio(rem), rem)
    a, b = scaled(fit, other, columns)
    w = np.linalg.solve(a.T @ a + 1e-3 * len(a) * np.diag([1e-9] + [1] * (a.shape[1] - 1)), a.T @ y)
    rem = [tokens(x @ w) for x in b]
    row("least squares on ln(1 + remaining), all columns", ratio(rem), rem)
    for name, options in (("position, heads and EMA", dict(averages=False, lengths=False, products=False)),
                          ("+ slow averages", dict(lengths=False, products=False)), ("+ implied lengths", dict(products=False)),
                          ("+ products, slow = EMA 0.02", dict(slow=SLOW)), ("+ products, slow = last quarter (kept)", {})):
        a, b = scaled(fit, other, lambda t: columns(t, **options))
        w = quantile_fit(a, y)
        rem = [tokens(x @ w) for x in b]
        row("median regression: " + name, ratio(rem), rem)


if __name__ == "__main__":
    main()
