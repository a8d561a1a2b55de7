#!/usr/bin/env python3
"""Writes tests/fixtures/statistics.json: scipy's answers to the questions experiments/report/statistics.cpp answers.

    python3 tests/peer/statistics_fixture.py > tests/fixtures/statistics.json
"""
import json
import sys

import numpy as np
import scipy
from scipy import stats

ACCURACY = [0.9423, 0.9431, 0.9418, 0.9427, 0.9415]
BASELINE = [0.9431, 0.9433, 0.9428, 0.9436, 0.9427]
CASES = {
    "accuracies": (ACCURACY, BASELINE),
    "unequal sizes": (ACCURACY, BASELINE[:3]),
    "two seeds": (ACCURACY[:2], BASELINE[:2]),
    "far apart": ([0.1088, 0.1101, 0.1079, 0.1092, 0.1085], [0.0588, 0.0591, 0.0579, 0.0602, 0.0583]),
    "one side fixed": ([1.0, 1.0, 1.0], [1.0, 2.0, 4.0]),
    "large": (list(np.linspace(-3, 5, 40) ** 3), list(np.linspace(-2, 4, 57) ** 2)),
    "tiny differences": ([1e-9, 2e-9, 4e-9], [1.5e-9, 2.5e-9, 3.5e-9]),
}


def interval(center, se, df):
    return [float(v) for v in stats.t.interval(0.95, df, loc=center, scale=se)]


def case(x, y):
    x, y = np.asarray(x, float), np.asarray(y, float)
    n, m = len(x), len(y)
    vx, vy = x.var(ddof=1) / n, y.var(ddof=1) / m
    df = (vx + vy) ** 2 / (vx**2 / (n - 1) + vy**2 / (m - 1))
    test = stats.ttest_ind(x, y, equal_var=False)
    pooled = np.sqrt(((n - 1) * x.var(ddof=1) + (m - 1) * y.var(ddof=1)) / (n + m - 2))
    out = {
        "x": x.tolist(), "y": y.tolist(),
        "mean": x.mean(), "sd": x.std(ddof=1), "se": stats.sem(x),
        "interval": interval(x.mean(), stats.sem(x), n - 1) if x.std() > 0 else [x.mean(), x.mean()],
        "welch": {"t": test.statistic, "df": df, "p": test.pvalue,
                  "interval": interval(x.mean() - y.mean(), np.sqrt(vx + vy), df)},
        "cohen_d": (x.mean() - y.mean()) / pooled,
    }
    if n == m:
        test = stats.ttest_rel(x, y)
        out["paired"] = {"t": test.statistic, "df": n - 1, "p": test.pvalue,
                         "interval": interval((x - y).mean(), stats.sem(x - y), n - 1)}
    return out


def holm(p):
    order = np.argsort(p, kind="stable")
    steps = np.asarray(p)[order] * np.arange(len(p), 0, -1)
    out = np.empty(len(p))
    out[order] = np.minimum(1, np.maximum.accumulate(steps))
    return out.tolist()


def benjamini_hochberg(p):
    return stats.false_discovery_control(p).tolist()


def equivalence(x, y, margin):
    x, y = np.asarray(x, float), np.asarray(y, float)
    below = stats.ttest_ind(x - margin, y, equal_var=False, alternative="less").pvalue
    above = stats.ttest_ind(x + margin, y, equal_var=False, alternative="greater").pvalue
    vx, vy = x.var(ddof=1) / len(x), y.var(ddof=1) / len(y)
    df = (vx + vy) ** 2 / (vx**2 / (len(x) - 1) + vy**2 / (len(y) - 1))
    return {"x": x.tolist(), "y": y.tolist(), "margin": margin, "p": max(below, above),
            "interval": [float(v) for v in stats.t.interval(0.9, df, loc=x.mean() - y.mean(), scale=np.sqrt(vx + vy))]}


def contrast(weights, samples):
    samples = [np.asarray(x, float) for x in samples]
    difference = sum(w * x.mean() for w, x in zip(weights, samples))
    parts = [w * w * x.var(ddof=1) / len(x) for w, x in zip(weights, samples)]
    se = np.sqrt(sum(parts))
    df = sum(parts) ** 2 / sum(v * v / (len(x) - 1) for v, x in zip(parts, samples))
    t = difference / se
    return {"weights": weights, "samples": [x.tolist() for x in samples], "t": t, "df": df, "p": 2 * float(stats.t.sf(abs(t), df)),
            "interval": interval(difference, se, df)}


def power(n, d):
    df, shift, critical = 2 * n - 2, d * np.sqrt(n / 2), stats.t.ppf(0.975, 2 * n - 2)
    value = float(stats.nct.sf(critical, df, shift) + stats.nct.cdf(-critical, df, shift))
    return 1.0 if np.isnan(value) and shift > 9 else value  # so far out scipy has no number: all but certain


def spearman(x, y):
    test = stats.spearmanr(x, y)
    return {"x": list(x), "y": list(y), "rho": float(test.statistic), "p": float(test.pvalue)}


def block_f_test(rows):
    """By least squares with and without the rows' own effects, not by sums of squares of means."""
    y = np.asarray(rows, float)
    n, blocks = y.shape
    row, block = np.eye(n)[np.repeat(np.arange(n), blocks)], np.eye(blocks)[np.tile(np.arange(blocks), n)]

    def rest(design):
        fitted = design @ np.linalg.lstsq(design, y.ravel(), rcond=None)[0]
        return ((y.ravel() - fitted) ** 2).sum()

    df, rest_df = n - 1, (n - 1) * (blocks - 1)
    f = (rest(block) - rest(np.hstack([block, row]))) / df / (rest(np.hstack([block, row])) / rest_df)
    return {"rows": y.tolist(), "f": f, "df": df, "rest_df": rest_df, "p": float(stats.f.sf(f, df, rest_df))}


P = [0.298, 0.160, 0.057, 0.096, 0.033, 0.022, 0.019, 0.0004]  # the published column, "<0.001" as 0.0004
json.dump({"scipy": scipy.__version__,
           "cases": {name: case(*xy) for name, xy in CASES.items()},
           "holm": {"p": P, "corrected": holm(P)},
           "benjamini_hochberg": {"p": P, "corrected": benjamini_hochberg(P)},
           "equivalence": [equivalence(ACCURACY, BASELINE, margin) for margin in (0.0005, 0.001, 0.002, 0.005)]
           + [equivalence(ACCURACY, BASELINE[:3], 0.002)],
           "contrasts": [contrast([1, -1], [ACCURACY, BASELINE[:3]]),
                         contrast([0.5, -0.5, -0.5, 0.5], [[0.1622, 0.16, 0.1475, 0.142], [0.1218, 0.1, 0.078, 0.0965],
                                                           [0.1582, 0.1426, 0.1597], [0.1665, 0.1443, 0.1305, 0.1223]])],
           "block_f_test": [block_f_test([ACCURACY, BASELINE]),
                            block_f_test([[1.0, 2, 4], [2.0, 3.5, 4.5], [0.0, 2, 3], [5.0, 5.5, 7.5]])],
           "spearman": [spearman(ACCURACY, BASELINE), spearman([1.0, 2, 3, 4, 5], [5.0, 6, 7, 8, 7]),
                        spearman([0.1, 0.1, 0.3, 0.2, 0.2, 0.2], [4.0, 4, 1, 2, 2, 7]), spearman([3.0, 1, 2], [0.5, 0.4, 0.9])],
           "power": [[n, d, power(n, d)] for n in (2, 3, 5, 20, 100) for d in (0.2, 0.5, 1.0, 3.0)],
           "t_quantile": [[df, float(stats.t.ppf(0.975, df))] for df in (1, 2, 4, 7.3, 30, 1000)]},
          sys.stdout, indent=1)
print()
