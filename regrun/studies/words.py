"""What a check came to, in words."""

from regrun.findings import StudyCheckRow

SHARES = ("error", "gain", "change", "gap")  # figures that are shares: shown in percent, their differences in points


def measured(row: StudyCheckRow) -> str:
    """`-1.20 points [-1.70, -0.70]`: the statistic with its interval, in the unit of the screen.

    Of a share also of how many seeds, `9 of 10 seeds, 90.00 % [59.58, 98.21]`; of each, which has no interval, the
    lowest and the highest seed, `0.34 (0.29 to 0.40)`.
    """
    scale, unit = _unit(row)
    mean, low, high = (None if v is None else _number(scale * v, _digits(row)) for v in (row.mean, row.low, row.high))
    if row.statistic == "each":
        return f"{mean}{unit} of every seed" if low == high else f"{mean}{unit} ({low} to {high})"
    told = f"{mean}{unit}" + (f" [{low}, {high}]" if low is not None and high is not None else "")
    return f"{row.mean * row.n:.0f} of {row.n} seeds, {told}" if row.statistic == "share" else told


def claimed(row: StudyCheckRow) -> str:
    """`above 50 %`, `between -2 and 2 points`; nothing where it decides nothing."""
    scale, unit = _unit(row)
    above, below = (None if v is None else _number(scale * v, _digits(row)) for v in (row.above, row.below))
    if above is not None and below is not None:
        return f"between {above} and {below}{unit}"
    return f"above {above}{unit}" if above is not None else f"below {below}{unit}" if below is not None else ""


def statistic(row: StudyCheckRow) -> str:
    """`difference of test_error: a - b`."""
    arms = [f"({arm})" for arm in row.arms]
    match row.statistic:
        case "difference":
            return f"{row.figure}: {arms[0]} minus {arms[1]}"
        case "ratio":
            return f"{row.figure}: {arms[0]} over {arms[1]}"
        case "interaction":
            return f"{row.figure}: ({arms[0]} minus {arms[1]}) minus ({arms[2]} minus {arms[3]})"
        case "share":
            return f"share of seeds with {row.figure}: {arms[0]}"
        case "each":
            return f"{row.figure} of every seed: {arms[0]}"
        case "median":
            return f"pseudomedian over {len(arms)} arms of their mean {row.figure}: {', '.join(arms)}"
    return f"mean {row.figure}: {', '.join(arms)}"


def is_share(figure: str) -> bool:
    """Whether a figure is shown in percent."""
    return figure.split("_")[-1] in SHARES and not figure.startswith(("relative", "eval"))


def unit_of(figure: str) -> str:
    """`%` for a share, `points` for a difference of shares, nothing for any other figure."""
    if not is_share(figure):
        return ""
    return "points" if {"gain", "gap", "of"} & {*figure.split("_")} else "%"


def _unit(row: StudyCheckRow) -> tuple[float, str]:
    if row.statistic == "share":
        return 100.0, " %"
    if row.statistic == "ratio" or not is_share(row.figure):
        return 1.0, ""
    return 100.0, " points" if row.statistic in ("difference", "interaction") else f" {unit_of(row.figure)}"


def _digits(row: StudyCheckRow) -> int:
    """Behind the point: 2, or as many as it takes to tell the bounds of a claim apart."""
    scale, _ = _unit(row)
    if row.above is None or row.below is None:
        return 2
    ends = scale * row.above, scale * row.below
    return next((digits for digits in range(2, 9) if len({_number(end, digits) for end in ends}) == 2), 2)


def _number(value: float, digits: int) -> str:
    """As many digits as a reader can use."""
    small = f"{value:#.{digits + 1}g}"
    if value == 0 or 0.1 <= abs(float(small)) < 1e5:  # as it is told, 0.09999 is 0.1
        return f"{value:.{digits}f}"
    return small if 1e-3 <= abs(value) < 0.1 else f"{value:#.{digits}g}"
