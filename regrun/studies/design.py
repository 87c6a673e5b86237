"""A study's file -> what is claimed, which runs try it, and what must be seen, all of it before the first one starts.

`conf/study/*.yaml`, or `study/*.yaml` in a folder of one's own (--config-dir). The keys are the fields of `Study`.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from regrun.conversion import nearest
from regrun.errors import ConfigError, clip
from regrun.paths import conf_dir

VERDICTS = ("reproduced", "not reproduced", "inconclusive")
PROFILES = ("quick", "full")
CHAPTERS = ("capacity", "initialization", "normalization", "regularization", "optimization", "ensembles")
# Each with the arms that it takes: so many, or (at least so many).
STATISTICS: dict[str, int | tuple[int]] = {
    **{"share": 1, "mean": (1,), "each": 1},
    **{"difference": 2, "ratio": 2, "interaction": 4, "median": (6,)},
}
EVENT = re.compile(r"([a-z][a-z0-9_]*) *([<>]) *(-?[0-9.]+(?:e-?[0-9]+)?)")
FIGURE = re.compile(r"[a-z][a-z0-9_]*")
LARGEST = 100_000  # bytes of a study's file


@dataclass(frozen=True)
class Check:
    """One thing that must be seen. Without `above` and `below` it is told and decides nothing.

    share: of seeds with the event `figure < 0.3`, with Wilson's interval. mean, difference (of the first arm and the
    second, paired by seed), interaction ((first - second) - (third - fourth)): with a t interval. ratio: the geometric
    mean of first over second. each: every seed's figure, from the smallest to the largest. Of several arms, which are
    data sets, mean averages them by seed; median is the pseudomedian of their means over seeds, by Wilcoxon's test.
    """

    says: str
    statistic: str
    figure: str
    of: tuple[str, ...]
    event: tuple[str, float] | None = None  # of a share: < or >, and the bound
    above: float | None = None
    below: float | None = None

    @property
    def decides(self) -> bool:
        """Whether the verdict depends on it."""
        return self.above is not None or self.below is not None


@dataclass(frozen=True)
class Picture:
    """What is drawn: a figure by arm, or over a setting that an arm's runs vary."""

    figure: str
    over: str | None = None
    title: str = ""


Points = tuple[tuple[str, ...], ...]  # an arm's lists of overrides: each is a run, or a grid of runs, for every seed


@dataclass(frozen=True)
class Study:
    """A claim and how it is tried. `setup` is shared by all arms; `quick` is added to it in that profile.

    Where there are `trials`, every run of an arm is done with each of them.
    """

    name: str
    about: str  # the file's first comment
    claim: str
    chapter: str
    lectures: str
    paper: str
    published: str
    expected: str
    seeds: Mapping[str, int]
    setup: tuple[str, ...]
    arms: Mapping[str, Points]
    checks: tuple[Check, ...]
    quick: tuple[str, ...] = ()
    trials: Points = ((),)
    compute: str | None = None  # a function of `computed` in place of runs
    picture: Picture | None = None
    note: str = ""  # how the design differs from the paper's, what else to know


def names(own: Path | None = None) -> list[str]:
    """Every study's name, in the order of the course."""
    return [study.name for study in every(own)]


def every(own: Path | None = None) -> list[Study]:
    """Every study, in the order of the course: `conf/course.yaml`; one's own come after those of their chapter."""
    course = yaml.safe_load((conf_dir() / "course.yaml").read_text(encoding="utf-8"))
    place = {name: number for number, name in enumerate(name for names in course.values() for name in names)}
    found = [read(path) for path in _files(own).values()]
    return sorted(
        found, key=lambda study: (CHAPTERS.index(study.chapter), place.get(study.name, len(place)), study.name)
    )


def find(name: str, own: Path | None = None) -> Study:
    """The study of this name. Raises ConfigError."""
    files = _files(own)
    if name not in files:
        what = nearest(name, list(files)).rstrip("; ") or f"choose all or one of {', '.join(files)}"
        raise ConfigError(f"study: no such study, got {clip(name)!r}; {what}")
    return read(files[name])


def _files(own: Path | None) -> dict[str, Path]:
    """Name -> file; one's own come first."""
    folders = [conf_dir() / "study", *([own / "study"] if own is not None else [])]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def read(path: Path) -> Study:
    """The study in a file. Raises ConfigError with every problem."""
    try:
        if path.stat().st_size > LARGEST:
            raise ConfigError(f"{path}: is larger than {LARGEST} bytes; a study's file is a page of text")
        text = path.read_text(encoding="utf-8")
        node = yaml.load(text, Loader=_Plain)
    except (OSError, UnicodeError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: is no YAML file ({clip(str(error))})") from None
    where = f"study {path.stem}"
    if not isinstance(node, dict):
        raise ConfigError(f"{where}: must be keys with values, got {clip(repr(node))}")
    problems = list(_key_problems(where, node))
    if problems:
        raise ConfigError(problems)
    comments = [line[1:].strip() for line in text.splitlines() if line.startswith("#")]
    checks = tuple(_check(f"{where}: checks[{i}]", own, problems) for i, own in enumerate(node.pop("checks")))
    arms = {str(name): _points(own) for name, own in node.pop("arms").items()}
    trials = _points(node.pop("trials", []))
    picture = node.pop("picture", None)
    plain: dict[str, Any] = {key: tuple(map(str, v)) if isinstance(v, list) else v for key, v in node.items()}
    study = Study(
        **plain,
        name=path.stem,
        about=comments[0] if comments else "",
        arms=arms,
        trials=trials,
        checks=tuple(check for check in checks if check is not None),
        picture=Picture(**picture) if picture else None,
    )
    problems += _problems(where, study)
    if problems:
        raise ConfigError(problems)
    return study


class _Plain(yaml.SafeLoader):
    """YAML without anchors: a page of text needs none, and they can stand for any amount of it."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias")
        return super().compose_node(parent, index)


def _key_problems(where: str, node: Mapping[str, Any]) -> Iterator[str]:
    fields = {f.name: f for f in dataclasses.fields(Study) if f.name not in ("name", "about")}
    shapes = {"seeds": dict, "arms": dict, "picture": dict} | dict.fromkeys(
        ("setup", "quick", "trials", "checks"), list
    )
    for key in node:
        if key not in fields:
            near = nearest(str(key), list(fields)) or f"it has {', '.join(fields)}"
            yield f"{where}: no such key, got {clip(str(key))!r}; {near.removesuffix('; ')}"
    for key, f in fields.items():
        shape = shapes.get(key, str)
        if key not in node and f.default is dataclasses.MISSING:
            yield f"{where}: {key}: is missing"
        elif key in node and not isinstance(node[key], shape):
            kind = {dict: "keys with values", list: "a list", str: "text"}[shape]
            yield f"{where}: {key}: must be {kind}, got {clip(repr(node[key]))}"


def _points(node: Any) -> Points:
    """A list of overrides, or a list of such lists."""
    lines = node if isinstance(node, list) else [node]
    if lines and all(isinstance(line, list) for line in lines):
        return tuple(tuple(map(str, line)) for line in lines)
    return (tuple(map(str, lines)),)


def _check(where: str, node: Any, problems: list[str]) -> Check | None:
    """One check; None if problems were found, which are added to the list."""
    if not isinstance(node, dict) or len(kinds := [key for key in STATISTICS if key in node]) != 1:
        problems.append(f"{where}: must have one of {', '.join(STATISTICS)}, got {clip(repr(node))}")
        return None
    (kind,) = kinds
    of = node.get("of", [])
    arms = tuple(map(str, of if isinstance(of, list) else [of]))
    own = [f"{where}: no such key, got {clip(str(key))!r}" for key in {*node} - {kind, "says", "of", "above", "below"}]
    match STATISTICS[kind]:
        case (least,) if len(arms) < least:
            own.append(f"{where}: of: {kind} takes at least {least} arms, got {clip(repr(of))}")
        case int(number) if len(arms) != number:
            own.append(f"{where}: of: {kind} takes {number} arms, got {clip(repr(of))}")
    figure, event = str(node[kind]).strip(), None
    if kind == "share":
        found = EVENT.fullmatch(figure)
        if found is None:
            own.append(f"{where}: share: must be like `test_error < 0.3`, got {clip(figure)!r}")
        else:
            figure, event = found[1], (found[2], float(found[3]))
    elif not FIGURE.fullmatch(figure):
        own.append(f"{where}: {kind}: must name a figure, got {clip(figure)!r}")
    bounds = {side: node.get(side) for side in ("above", "below")}
    own += [
        f"{where}: {side}: must be a number, got {clip(repr(bound))}"
        for side, bound in bounds.items()
        if isinstance(bound, bool) or not isinstance(bound, int | float | None)
    ]
    problems += own
    return None if own else Check(str(node.get("says", "")), kind, figure, arms, event, **bounds)


def _problems(where: str, study: Study) -> Iterator[str]:
    """What does not fit together."""
    for key, value, options in (("chapter", study.chapter, CHAPTERS), ("expected", study.expected, VERDICTS)):
        if value not in options:
            yield f"{where}: {key}: must be one of {', '.join(options)}, got {clip(value)!r}"
    for profile in PROFILES:
        count = study.seeds.get(profile)
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            yield f"{where}: seeds: {profile}: must be a number of seeds, got {clip(repr(count))}"
    for check in study.checks:
        for arm in check.of if study.compute is None else ():
            if arm not in study.arms:
                yield f"{where}: checks: of: no such arm, got {clip(arm)!r}; it has {', '.join(study.arms)}"
        if not check.says:
            yield f"{where}: checks: says: must say in words what must be seen, got nothing"
    if not any(check.decides for check in study.checks):
        yield f"{where}: checks: none has above or below, so that nothing decides the verdict"
