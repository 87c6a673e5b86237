"""Pictures from the tables alone: learning curves of one run, a network before training.

matplotlib is imported when something is drawn.
"""

import csv
import io
import logging
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLES = {
    "train": ("#0072B2", "-"),
    "val": ("#D55E00", "--"),
}  # Okabe and Ito's; the dashes tell them apart in grey

LABELS = {"loss": "loss (nats)", "accuracy": "accuracy (share)", "r2": "R2 (share of variance)"}
FIGURES = {
    "activation_rms": ("RMS of outputs", "#0072B2", "o-"),
    "across_example_std": ("std of outputs across examples", "#D55E00", "s--"),
    "grad_rms": ("RMS of gradients by weights", "#009E73", "^:"),
}


def blank(width: float, height: float, *, dpi: int) -> "Figure":
    """An empty picture of so many inches."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns where it cannot keep its fonts in a home
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi)
    FigureCanvasAgg(figure)
    return figure


def curves_png(folder: Path) -> bytes:
    """Loss and accuracy (or R2) of train and val over epochs, the best epoch and the stop marked, as PNG bytes."""
    with (folder / "curves.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with (folder / "summary.csv").open(encoding="utf-8", newline="") as file:
        summary = next(csv.DictReader(file))
    is_regression = rows[0]["accuracy"] == ""
    figure = blank(10, 4, dpi=120)
    # Fixed margins: a layout engine would draw everything once more (0.4 s) to find the same ones.
    figure.subplots_adjust(left=0.07, right=0.985, top=0.9, bottom=0.13, wspace=0.18)
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "r2" if is_regression else "accuracy"), strict=True):
        _draw(axes, rows, quantity, summary)
    options = f"{summary['model.kind']}, {summary['num_parameters']} parameters, {summary['optimizer.kind']}"
    figure.suptitle(f"{summary['data.kind']}: {options}, seed {summary['seed']}", fontsize=11)
    return _png(figure)


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def audit_png(folder: Path) -> bytes:
    """RMS, standard deviation across examples and gradients over depth, all on a log scale, as PNG bytes."""
    with (folder / "audit.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    figure = blank(8, 4.5, dpi=120)
    figure.subplots_adjust(left=0.1, right=0.97, top=0.96, bottom=0.2)
    axes = figure.subplots()
    for column, (label, color, style) in FIGURES.items():
        points = [(i, float(r[column])) for i, r in enumerate(rows) if r[column] != "none" and float(r[column]) > 0]
        if points:
            axes.plot(*zip(*points, strict=True), style, color=color, markersize=4, label=label)
    step = -(-len(rows) // 24)
    axes.set_xticks(range(0, len(rows), step), [r["layer"] for r in rows[::step]], rotation=45, ha="right", fontsize=8)
    axes.set(yscale="log", ylabel="before training, first batch", xlim=(-0.5, len(rows) - 0.5))
    axes.grid(color="0.9")
    axes.legend(frameon=False, fontsize=8)
    return _png(figure)


def _draw(axes: "Axes", rows: list[dict[str, str]], quantity: str, summary: dict[str, str]) -> None:
    for split, (color, dash) in STYLES.items():
        points = [(int(r["epoch"]), float(r[quantity])) for r in rows if r["split"] == split]
        mark = "o" if len(points) < 3 else ""
        axes.plot(*zip(*points, strict=True), color=color, linestyle=dash, marker=mark, linewidth=1.8, label=split)
    best, last = summary["best_epoch"], summary["last_epoch"]
    axes.axvline(float(best), color="0.35", linestyle=":", label=f"best epoch, {best}")
    axes.axvline(float(last), color="0.35", linewidth=1, label=f"end, {last} ({summary['stop_reason']})")
    if quantity == "loss" and min(float(r["loss"]) for r in rows) > 0:
        axes.set_yscale("log")
    label = LABELS[quantity] if quantity != "loss" or rows[0]["accuracy"] else "loss (standardized targets)"
    axes.set(xlabel="epoch", ylabel=label)
    axes.grid(color="0.9")
    axes.legend(frameon=False, fontsize=8)
