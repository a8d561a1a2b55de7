"""Redraws the paper's picture of specialisation by layer from a result folder, with the spread over seeds.

    PYTHONPATH=tools python3 docs/examples/specialisation_by_depth.py results depth.png

Needs matplotlib; pandas and numpy where they are installed.
"""
import sys
from collections import defaultdict
from statistics import mean, stdev

import glia


def series(out, key):
    """{configuration: [(layer, mean, standard error)]} of one metric."""
    values = defaultdict(lambda: defaultdict(list))
    for folder in glia.run_folders(out):
        row = glia.run(folder)
        for layer in range(1, row["model.layers"] + 1):
            if f"{key}[{layer}]" in row:
                values[row["config"]][layer].append(row[f"{key}[{layer}]"])
    return {config: [(layer, mean(v), stdev(v) / len(v) ** 0.5 if len(v) > 1 else 0.0) for layer, v in sorted(layers.items())]
            for config, layers in values.items()}


def main(out, picture):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plot
    figure, axes = plot.subplots(1, 2, figsize=(11, 4), sharey=True)
    for axis, key, title in zip(axes, ("specialisation", "specialisation_cls"), ("all tokens", "CLS rows only")):
        for config, points in sorted(series(out, key).items()):
            axis.errorbar([p[0] for p in points], [p[1] for p in points], [p[2] for p in points], marker="o", capsize=3, label=config)
        axis.set_xlabel("layer")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_title(title)
    axes[0].set_ylabel("specialisation")
    axes[1].legend(fontsize=8)
    figure.savefig(picture, dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: specialisation_by_depth.py RESULTS PICTURE.png")
    main(*sys.argv[1:])
