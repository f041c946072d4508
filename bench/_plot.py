"""The figures of `engine.py` as a picture: each workload by the fastest peer; docs/performance.md has the commands."""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "gradwire"  # equal figures make equal files
mpl.rcParams["svg.fonttype"] = "none"

TITLE = "The time of each workload by that of the fastest peer"
COLOURS = ("#1f6f8b", "#b9c7cf")
TICKS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


def ratios(path: Path) -> dict[str, float]:
    """Return the ratio of each workload that counts."""
    return {item["workload"]: item["ratio"] for item in json.loads(path.read_text())["results"] if item["counts"]}


def draw(compiled: dict[str, float], plain: dict[str, float]) -> plt.Figure:
    """Return a bar for each workload with and without machine code, from a line that stands for the fastest peer."""
    names = list(reversed(compiled))
    figure, axes = plt.subplots(figsize=(9, 0.46 * len(names) + 1.2), layout="constrained")
    for offset, height, (label, found, colour) in zip(
        (0.2, -0.2),
        (0.38, 0.38),
        (("with gradwire[jit]", compiled, COLOURS[0]), ("without", plain, COLOURS[1])),
        strict=True,
    ):
        mean = statistics.geometric_mean(found[name] for name in names)
        places = [place + offset for place in range(len(names))]
        bars = axes.barh(
            places, [found[name] - 1 for name in names], height, left=1, color=colour, label=f"{label}: geometric mean {mean:.2f}"
        )
        axes.bar_label(bars, [f"{found[name]:.2f}" for name in names], padding=3, fontsize=7)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlim(0.02, 20)
    axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes.minorticks_off()
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel(
        "time by that of the fastest of jax.jit, torch.func, autograd, CasADi (left of 1: gradwire is faster)", fontsize=8
    )
    axes.legend(loc="upper right", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("compiled", type=Path, help="figures with the native tier")
    parser.add_argument("plain", type=Path, help="figures without")
    parser.add_argument("picture", type=Path, help="the file to write")
    chosen = parser.parse_args()
    draw(ratios(chosen.compiled), ratios(chosen.plain)).savefig(
        chosen.picture, metadata={"Title": TITLE, "Date": None, "Creator": None}
    )
    print(f"wrote {chosen.picture}")


if __name__ == "__main__":
    main()
