"""`regrun audit`: a network before training, as a table that fits its screen; kept where a folder is named."""

import math
import shutil
from collections.abc import Callable

from rich.text import Text

from regrun import display, plots, records, rows
from regrun.audit import DIES, Audit, audit
from regrun.config import to_yaml
from regrun.data.split import split
from regrun.prepare import Prepared, configure_torch
from regrun.rows import AuditRow, MemoryRow
from regrun.run import title
from regrun.settings import Residual, Resnet, Settings, Torchvision, Vit

Line = tuple[str, str]  # rich's style, text

# FADES and GROWS: of the input's standard deviation across examples, in the last hidden layer; STEEP: of the last
# hidden layer's gradient, in the first. Of 384 MLPs on digits (64 wide, 1 to 30 deep, 8 inits, 3 activations, with
# and without batchnorm, adam and momentum), those above 80 % val accuracy after 20 epochs: 1 of 88 whose signal
# dies, 4 of 20 where it fades, 0 of 16 where it grows, 8 of 18 that are saturated, 2 of 18 steep, 202 of 224 others.
FADES, GROWS, STEEP = 1e-2, 10.0, 50.0
MOST = 0.5  # of a layer's outputs

WIDTH = 120  # of what is no terminal
MOST_LAYERS = 40  # shown; the table on disk has all
GAP = 2

# What is shown of a layer, and its rank: where not all fits, the columns of the highest rank go first.
COLUMNS: dict[str, tuple[int, Callable[[AuditRow], str]]] = {
    "layer": (0, lambda r: r.layer),
    "shape": (7, lambda r: "x".join(map(str, r.shape))),
    "params": (4, lambda r: f"{r.parameters:,}"),
    "fan in": (9, lambda r: _count(r.fan_in)),
    "fan out": (10, lambda r: _count(r.fan_out)),
    "aim": (8, lambda r: number(r.target_std)),
    "std": (6, lambda r: number(r.weight_std)),
    "rms": (1, lambda r: number(r.activation_rms)),
    "across": (0, lambda r: number(r.across_example_std)),
    "gradient": (2, lambda r: number(r.grad_rms)),
    "saturated": (5, lambda r: _percent(r.saturated_fraction)),
    "dead": (3, lambda r: _percent(r.dead_fraction)),
}
LEGEND = {
    "aim": "aim: std of the weights that the init asks for",
    "std": "std: theirs",
    "rms": "rms: of the outputs",
    "across": "across: std of the outputs across examples",
    "gradient": "gradient: rms of the loss's by the weights",
    "dead": "dead: units that are 0 for every example",
}


def execute(prepared: Prepared, *, keep: bool) -> None:
    """Audit the run; show it, and with `keep` write its tables and picture into the run's folder."""
    run, folder = prepared.job.settings, prepared.job.folder
    if keep:
        records.claim(folder)
    configure_torch(run, prepared.device)
    found = audit(run, prepared.source, split(prepared.source, run.data, run.seeds), prepared.device)
    view, says = display.choose(run.trainer.progress), verdict(found, run)

    def lines(width: int) -> list[Line]:
        warned = [("yellow", f"warning: {line}") for line in prepared.warnings]
        return [("bold", title(prepared)), *warned, *table(found, width=width), *totals(found), ("bold", says)]

    if isinstance(view, display.LiveView):
        for style, text in lines(view.console.width):
            view.console.print(Text(text, style=style))
    elif isinstance(view, display.Plain):
        for _, text in lines(shutil.get_terminal_size((WIDTH, 24)).columns):
            view.write(text)
    if keep:
        records.replace(folder / "settings.yaml", to_yaml(run))
        records.append(folder / "audit.csv", rows.columns(AuditRow), map(rows.values, found.layers))
        records.append(folder / "memory.csv", rows.columns(MemoryRow), map(rows.values, found.memory))
        for _, text in lines(WIDTH):
            records.log(folder, text)
        records.replace(folder / "audit.png", plots.audit_png(folder))


def table(found: Audit, *, width: int) -> list[Line]:
    """A row for each layer and a legend, in at most `width` columns as far as the first four fit."""
    step = -(-len(found.layers) // MOST_LAYERS)
    shown = found.layers[::-1][::step][::-1]
    cells = {name: [name, *(of(row) for row in shown)] for name, (_, of) in COLUMNS.items()}
    cells = {name: column for name, column in cells.items() if any(column[1:])}
    widths = {name: max(map(len, column)) for name, column in cells.items()}
    while sum(widths.values()) + GAP * (len(widths) - 1) > width and len(widths) > 4:
        del widths[max(widths, key=lambda name: COLUMNS[name][0])]
    dies_at = found.dies_at()
    after = len(found.layers) if dies_at is None else found.layers.index(found.row(dies_at))
    lines: list[Line] = []
    for i, _ in enumerate(cells["layer"]):
        parts = [cells[n][i].ljust(w) if n == "layer" else cells[n][i].rjust(w) for n, w in widths.items()]
        is_dead = i > 0 and found.layers.index(shown[i - 1]) >= after
        lines.append(("bold" if i == 0 else "red" if is_dead else "", (" " * GAP).join(parts).rstrip()))
    notes = [LEGEND[name] for name in widths if name in LEGEND]
    if step > 1:
        notes.append(f"every {step} layers shown of {len(found.layers)}")
    return lines + [("dim", line) for line in _wrapped(notes, width)]


def totals(found: Audit) -> list[Line]:
    """Parameters and bytes."""
    parts = [f"{m.part} {_size(m.bytes)}" for m in found.memory]
    count, total = sum(row.parameters for row in found.layers), sum(m.bytes for m in found.memory)
    return [("", f"parameters: {count:,}"), ("", f"memory, batch {found.batch}: {_size(total)}: {', '.join(parts)}")]


def verdict(found: Audit, run: Settings) -> str:
    """What the figures say of the start, and what to do about it, in a sentence."""
    layers = [found.row(name) for name in found.path]
    if not layers:
        return "nothing is hidden: the output sees the input itself"
    first, last, dies_at = layers[0], layers[-1], found.dies_at()
    if first.weight_std == 0 and first.shape[0] > 1:
        return f"the units of {first.layer} start the same, and stay the same; choose another model.init.scheme"
    if dies_at is not None:
        return f"the signal dies at {dies_at} of {len(layers)}: {_how_dead(found, last)}; {_remedy(run)}"
    if (trouble := _trouble(found, layers)) is not None:
        return f"{trouble}; {_remedy(run)}"
    return f"the signal passes: {last.layer} has {number(found.signal(last.layer))} of the input's std across examples"


def _trouble(found: Audit, layers: list[AuditRow]) -> str | None:
    """What is wrong with hidden layers that have a signal."""
    first, last = layers[0], layers[-1]
    reached, slope = found.signal(last.layer), (first.grad_rms or 0.0) / (last.grad_rms or math.inf)
    saturated = max(layers, key=lambda row: row.saturated_fraction or 0.0)
    if not math.isfinite(last.activation_rms):
        return f"the signal overflows by {last.layer}"
    if reached < FADES:
        return f"the signal fades: {last.layer} has {number(reached)} of the input's std across examples"
    if reached > GROWS:
        return f"the signal grows {number(reached)}-fold by {last.layer}"
    if (saturated.saturated_fraction or 0.0) > MOST:
        return f"{_percent(saturated.saturated_fraction)} of {saturated.layer} is saturated"
    if slope > STEEP:
        return f"the gradient grows {number(slope)}-fold on its way back from {last.layer} to {first.layer}"
    return None


def _how_dead(found: Audit, last: AuditRow) -> str:
    """Small, or large and the same for every example."""
    figures = f"{last.layer} has an RMS of {number(last.activation_rms)}"
    if last.activation_rms < DIES * found.layers[0].activation_rms:
        return f"{figures}, the input {number(found.layers[0].activation_rms)}"
    return f"{figures}, which looks alive, but only {number(last.across_example_std)} of it differs across examples"


def _remedy(run: Settings) -> str:
    """What to change first: the init, where it does not suit the activation."""
    init, activation = run.model.init, run.model.activation
    suits = "xavier" if activation in ("tanh", "sigmoid") else "he"
    if not init.scheme.startswith((suits, "orthogonal")):
        return f"try model.init.scheme={suits}_normal" + (" model.init.bias=zeros" if init.bias != "zeros" else "")
    has_norm = run.reg.batchnorm.active or isinstance(run.model, Vit | Torchvision)
    is_residual = isinstance(run.model, Residual | Resnet | Vit | Torchvision)
    others = {"reg=batchnorm": not has_norm, "model=residual": not is_residual}
    words = [name for name, is_other in others.items() if is_other]
    return "try " + ", ".join([*words, "fewer layers"])


def _wrapped(notes: list[str], width: int) -> list[str]:
    lines = [""]
    for note in notes:
        longer = f"{lines[-1]}; {note}" if lines[-1] else note
        lines = [*lines[:-1], longer] if len(longer) <= width else [*lines, note]
    return lines


def number(value: float | None) -> str:
    """0.02024 -> 0.02, 6.5e-09 -> 6.5e-9: two figures."""
    return "" if value is None else f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}".replace("%", " %")


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _size(count: int) -> str:
    """64,840 -> 64.8 kB."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} B"
