"""Command line -> settings: compose with Hydra, collect every problem, convert. The only module that knows omegaconf.

Hydra composes the choices of groups; plain values are then set one by one on a copy of the result, by
Hydra's own function, so that all mistakes of a command are found and not just the first.
"""

import copy
import dataclasses
import functools
import importlib.util
import itertools
import json
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf._utils import get_yaml_loader
from omegaconf.errors import OmegaConfBaseException

from regrun import checks, configs, foreign
from regrun import settings as s
from regrun.conversion import nearest, to_group, to_settings
from regrun.errors import ConfigError, DataError, clip
from regrun.launchers import LAUNCHERS, Launcher, Local, Plugin
from regrun.paths import conf_dir
from regrun.space import Optuna, Search, explore

CONFIG_NAME = "config"
LONGEST_KEY = 200
LONGEST_CHOICE = 210  # of a line that lists options
HYDRA_KEYS = (
    "hydra.run.dir",
    "hydra.sweep",
    "hydra/launcher",
    "hydra.launcher.",
    "hydra/sweeper",
    "hydra.searchpath",
    "hydra.job.name",
    "hydra.job.config.",
    "hydra/output",
)
SEARCH_KEYS = [f"hydra.sweeper.{f.name}" for f in dataclasses.fields(Optuna) if f.name != "kind"]


@dataclass(frozen=True)
class Job:
    """One run of a command: its checked settings, and the folders that Hydra's configuration gives it."""

    settings: s.Settings
    folder: Path
    sweep: Path | None  # hydra.sweep.dir, for the runs of a sweep
    fetches: bool = True  # whether data that is missing may be downloaded, and a cache be kept: not by a found plan


@dataclass(frozen=True)
class Command:
    """What a command line means."""

    jobs: list[Job]  # of a search, the corners of its space
    launcher: Launcher
    search: Search | None = None


@functools.cache
def register() -> None:
    """Store the neutral values of every settings class where the YAML files find them, under `schema/`."""
    store = ConfigStore.instance()
    for group, kinds in s.KINDS.items():
        classes = {cls: kind for kind, cls in reversed(kinds.items())}  # each class under its first kind
        for cls, kind in classes.items():
            store.store(kind, dataclasses.asdict(cls()), group=f"schema/{group}")
    rest = {name: value for name, value in dataclasses.asdict(s.Settings()).items() if name not in s.KINDS}
    store.store("main", rest, group="schema")
    for name, cls in LAUNCHERS.items():
        store.store(name, dataclasses.asdict(cls()), group="schema/launcher")
    store.store("optuna", dataclasses.asdict(Optuna()), group="schema/sweeper")


def jobs(overrides: Sequence[str], *, multirun: bool) -> list[Job]:
    """Every run that a command line means, checked. Raises ConfigError with all problems."""
    return command(overrides, multirun=multirun).jobs


def command(
    overrides: Sequence[str],
    *,
    multirun: bool,
    config_dir: Path | None = None,
    config_name: str | None = None,
) -> Command:
    """What a command line means, with types and ranges checked. Raises ConfigError with all problems."""
    register()
    if config_dir is not None:
        if (problem := configs.problem(str(config_dir), "--config-dir", config_name)) is not None:
            raise ConfigError(problem)
        quoted = str(config_dir.absolute()).replace("\\", "\\\\").replace("'", "\\'")
        overrides = [*overrides, f"hydra.searchpath=['file://{quoted}']"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="regrun"):
        parsed = _parse(overrides, multirun=multirun)
        composer = _Composer(config_name or CONFIG_NAME, parsed)
        if _is_search(parsed):
            return _search(composer, parsed)
        composed = [composer.compose(lines) for lines in _combinations(parsed, multirun=multirun)]
        runs = [run for c in composed if (run := _to_settings(c.task, composer.problems)) is not None]
        launcher = _launcher(composed[0], composer.problems)
        composer.problems += _sweeper_problems(composed[0].base.cfg.hydra)
        problems = [*composer.problems, *(line for run in runs for line in checks.conflicts(run))]
        if problems or launcher is None:
            raise ConfigError(dict.fromkeys(problems))
        root = _path(_resolvable(composed[0], 0), "hydra.sweep.dir" if multirun else "hydra.run.dir")
        if not multirun:
            return Command([Job(runs[0], root, None)], launcher)
        numbered = enumerate(zip(runs, composed, strict=True))
        return Command([Job(run, root / _subdir(c, i), root) for i, (run, c) in numbered], launcher)


def corner_jobs(search: Search, root: Path, problems: list[str]) -> list[Job]:
    """The corners of a search's space as the runs of a sweep, checked."""
    runs = [run for point in search.corners() if (run := _resolved(search.tree(point), problems)) is not None]
    problems += [line for run in runs for line in checks.conflicts(run)]
    return [Job(run, root / str(i), root) for i, run in enumerate(runs)]


def compose_with_hydra(overrides: Sequence[str]) -> dict[str, Any]:
    """The task's configuration as Hydra alone composes it: what `jobs` must agree with."""
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="regrun"):
        container: dict[str, Any] = OmegaConf.to_container(compose(CONFIG_NAME, list(overrides)))  # type: ignore[assignment]
        return container


def to_yaml(settings: s.Settings) -> str:
    """The resolved settings as YAML."""
    return OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(settings)))


def read_settings(path: Path) -> s.Settings:
    """The settings in a run's settings.yaml, which may be anybody's. Raises DataError."""
    try:
        return from_yaml(foreign.text(path))
    except (ValueError, ConfigError, yaml.YAMLError) as error:
        raise DataError(f"{path}: holds no settings of regrun's ({clip(str(error))}); repeat the run") from None


def from_yaml(text: str) -> s.Settings:
    """The settings that `to_yaml` wrote, by anybody: nothing is resolved. Raises ConfigError, ValueError, YAMLError."""
    problems: list[str] = []
    foreign.check_yaml(text)
    settings = to_settings(yaml.load(text, Loader=get_yaml_loader()), problems)  # a SafeLoader
    if settings is None:
        raise ConfigError(problems)
    return settings


def _parse(overrides: Sequence[str], *, multirun: bool) -> list[Override]:
    """Each override, or every one's problem."""
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    parsed, problems = [], []
    for line in overrides:
        try:
            parsed += parser.parse_overrides([line])
        except (HydraException, ValueError):
            problems.append(
                f"{clip(line)!r}: not a valid override; write key=value, and quote what the shell would split"
            )
    searches = _is_search(parsed)
    found = (_override_problem(o, o.input_line or "", multirun=multirun, searches=searches) for o in parsed)
    problems += [problem for problem in found if problem is not None]
    if problems:
        raise ConfigError(problems)
    return parsed


def _override_problem(override: Override, line: str, *, multirun: bool, searches: bool) -> str | None:
    """What is wrong with an override that Hydra can parse, before anything is composed."""
    key = override.key_or_group
    if not key:
        return f"{clip(line)!r}: names no key; write key=value"
    if len(key) > LONGEST_KEY:
        return f"{clip(key)}: no such key; regrun --help lists them"
    if override.is_hydra_override() and (not key.startswith(HYDRA_KEYS) or "_target_" in key):
        return f"{key}: has no effect here, got {clip(line)!r}; of Hydra's own keys regrun takes {_shown(HYDRA_KEYS)}"
    if override.is_sweep_override() and not multirun:
        return f"{key}: several values, got {clip(line)!r}; add -m to run a sweep"
    if key.startswith(("hydra/launcher", "hydra.launcher.", "hydra/sweeper", "hydra.sweeper.")) and not multirun:
        return f"{key}: is about the runs of a sweep, got {clip(line)!r}; add -m"
    if override.is_hydra_override() and override.is_sweep_override():
        return f"{key}: is the same for all runs, got {clip(line)!r}; give it one value"
    if key.startswith(("hydra.sweeper.", "hydra/sweeper/")) and key not in SEARCH_KEYS:
        return f"{key}: no such key; a search has {', '.join(SEARCH_KEYS).replace(', hydra.sweeper.', ', ')}"
    if key in SEARCH_KEYS and not searches:
        return f"{key}: is about a search, got {clip(line)!r}; add hydra/sweeper=optuna"
    if override.is_interval_sweep() and not searches:
        return f"{key}: an interval has no list of values, got {clip(line)!r}; use range(...) or hydra/sweeper=optuna"
    if key == "hydra.searchpath":
        folders = [path[7:] for path in _listed(override.value()) if path.startswith("file://")]
        return next((problem for folder in folders if (problem := configs.problem(folder, key)) is not None), None)
    return None


def _listed(value: Any) -> list[str]:
    return [str(path) for path in value] if isinstance(value, list) else []


def _shown(keys: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(key.removeprefix("hydra")[1:].removesuffix(".") for key in keys))


def _is_search(overrides: Sequence[Override]) -> bool:
    return any(o.key_or_group == "hydra/sweeper" and o.value() == "optuna" for o in overrides)


def _combinations(overrides: list[Override], *, multirun: bool) -> list[list[str]]:
    """The overrides of each run: one list, or the product of a sweep's choices in Hydra's order."""
    if not multirun:
        return [[o.input_line or "" for o in overrides]]
    for override in overrides:
        try:
            is_empty = override.is_sweep_override() and not list(override.sweep_string_iterator())
        except (HydraException, ValueError):
            is_empty = True
        if is_empty:
            line = clip(override.input_line or "")
            raise ConfigError(f"{override.key_or_group}: sweeps over no value, got {line!r}; name at least one")
    choices: dict[str, list[str]] = {}
    for o in overrides:
        key = o.get_key_element()
        # A fixed value stays as it was typed: Hydra's sweeper writes it anew, and escapes the interpolations in it.
        typed = [o.input_line or ""]
        choices[key] = [f"{key}={value}" for value in o.sweep_string_iterator()] if o.is_sweep_override() else typed
    return [list(lines) for lines in itertools.product(*choices.values())]


@dataclass(frozen=True)
class _Base:
    """What Hydra composes from one choice of groups."""

    cfg: DictConfig
    task: dict[str, Any] | None  # its plain values without the `hydra` node; None if one is an interpolation


@dataclass(frozen=True)
class _Composed:
    """One run's configuration: as plain values where that is enough, else as omegaconf's tree."""

    task: dict[str, Any] | DictConfig
    base: _Base
    overrides: list[Override]


@functools.lru_cache(maxsize=64)
def _composed_by_hydra(config_name: str, groups: tuple[str, ...]) -> _Base:
    """One choice of groups. Kept, since the arms of a study share theirs."""
    cfg = compose(config_name, list(groups), return_hydra_config=True)
    task = OmegaConf.to_container(_without_hydra(cfg))
    has_interpolation = "${" in json.dumps(task) or "???" in json.dumps(task)
    return _Base(cfg, None if has_interpolation else typing.cast(dict[str, Any], task))


@functools.lru_cache(maxsize=256)
def _group_options(paths: tuple[str, ...], group: str) -> list[str]:
    """The options of a group in regrun's folder and in others; 20 to 70 ms for each that is asked first."""
    places = copy.deepcopy(GlobalHydra.instance().config_loader().get_search_path())
    for path in paths:
        places.append("hydra.searchpath", path)
    found: list[str] = ConfigLoaderImpl(places).get_group_options(group)
    return found


class _Composer:
    """Composes many lists of overrides, each choice of groups once, and collects the problems of all.

    Hydra takes 100 ms a run; setting plain values on a copy of plain dicts takes 1 ms. What is not plain (an
    interpolation, `+`, `~`, a dict) is set by Hydra's own function on a copy of omegaconf's tree.
    """

    def __init__(self, config_name: str, overrides: Sequence[Override]) -> None:
        """overrides: all of the command's; their hydra.searchpath has options, too."""
        self.config_name = config_name
        self.problems: list[str] = []
        self.loader = GlobalHydra.instance().config_loader()
        parser = OverridesParser.create(config_loader=self.loader)
        self.parse = functools.cache(lambda line: parser.parse_overrides([line])[0])
        self.base = functools.cache(self._base)
        paths = [path for o in overrides if o.key_or_group == "hydra.searchpath" for path in _listed(o.value())]
        self.options = functools.partial(_group_options, tuple(paths))

    def compose(self, lines: Sequence[str]) -> _Composed:
        """The configuration; mistaken overrides are noted and left out."""
        overrides = [self.parse(line) for line in lines]
        groups = [o for o in overrides if self._is_composed(o)]
        base = self.base(tuple(o.input_line or "" for o in groups if self._is_known_choice(o)))
        values = [o for o in overrides if o not in groups]
        if base.task is not None and all(_is_plain(o, base.task) for o in values):
            return _Composed(_with_values(base.task, values), base, overrides)
        cfg = copy.deepcopy(base.cfg)
        for override in values:
            self._set(cfg, override)
        return _Composed(cfg, base, overrides)

    def _base(self, groups: tuple[str, ...]) -> _Base:
        try:
            return _composed_by_hydra(self.config_name, groups)
        except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, OSError) as error:
            self.problems.append(f"{clip(' '.join(groups) or self.config_name)}: {_one_line(error)}")
            return _composed_by_hydra(CONFIG_NAME, ())

    def _is_composed(self, override: Override) -> bool:
        """Whether Hydra must see it while it composes: the choice of a group, or one of its own keys."""
        key = override.key_or_group
        # No group has a dot in its name, and to ask Hydra costs 20 ms.
        is_group = "." not in key and bool(self.options(key)) and not isinstance(override.value(), dict)
        return is_group or override.package is not None or override.is_hydra_override()

    def _is_known_choice(self, override: Override) -> bool:
        options, value = self.options(override.key_or_group), override.value()
        names = value if isinstance(value, list) else [value]
        unknown = [n for n in names if options and n is not None and str(n) not in options]
        for name in unknown if not override.is_delete() else []:
            line = f"{override.key_or_group}: no such option, got {clip(str(name))!r}; {nearest(str(name), options)}"
            choice = f"choose from {', '.join(options)}"
            fits = len(line + choice) <= LONGEST_CHOICE
            self.problems.append(line + (choice if fits else "regrun --help lists them"))
        return override.is_delete() or not unknown

    def _set(self, cfg: DictConfig, override: Override) -> None:
        key = override.key_or_group
        is_plain = not (override.is_add() or override.is_force_add() or override.is_delete())
        try:
            if is_plain and not _has(cfg, key):
                near = nearest(key, [*_keys(cfg), "experiment"]) or "regrun --help lists them"
                self.problems.append(f"{key}: no such key; {near.removesuffix('; ')}")
            else:
                ConfigLoaderImpl._apply_overrides_to_config([override], cfg)
        except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
            self.problems.append(f"{key}: {_one_line(error)}, got {clip(override.input_line or '')!r}")


def _is_plain(override: Override, task: dict[str, Any]) -> bool:
    """Whether the override only gives an existing leaf another value."""
    node: Any = task
    for part in override.key_or_group.split("."):
        if not isinstance(node, dict) or part not in node:
            return False
        node = node[part]
    is_change = not (override.is_add() or override.is_force_add() or override.is_delete())
    values = (node, override.value())
    return is_change and "${" not in (override.input_line or "") and not any(isinstance(v, dict) for v in values)


def _with_values(task: dict[str, Any], overrides: list[Override]) -> dict[str, Any]:
    """A copy of the plain values with some leaves replaced."""

    def copied(node: dict[str, Any]) -> dict[str, Any]:
        return {key: copied(value) if isinstance(value, dict) else value for key, value in node.items()}

    result = copied(task)
    for override in overrides:
        *path, last = override.key_or_group.split(".")
        functools.reduce(lambda node, part: node[part], path, result)[last] = override.value()
    return result


def _has(cfg: DictConfig, key: str) -> bool:
    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    return isinstance(node, DictConfig) and last in node.keys()  # noqa: SIM118  (in hides values that are missing)


def _keys(cfg: DictConfig, prefix: str = "") -> Iterator[str]:
    for name in map(str, cfg):
        if prefix or name != "hydra":
            yield f"{prefix}{name}"
            node = cfg._get_node(name)
            if isinstance(node, DictConfig):
                yield from _keys(node, f"{prefix}{name}.")


def _one_line(error: Exception) -> str:
    """The gist of a message of Hydra's or omegaconf's: its first line, without its advice."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{mark.name[-80:]}, line {mark.line + 1}: {clip(error.problem or 'is no YAML', 80)}"
    lines = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
    return clip(lines[0].strip().rstrip("."), 120)


def _launcher(composed: _Composed, problems: list[str]) -> Launcher | None:
    """The launcher that `hydra/launcher` names: one of ours as checked data, or a plugin of Hydra's by its name."""
    hydra = composed.base.cfg.hydra
    node = OmegaConf.to_container(hydra.launcher, resolve=True)
    if isinstance(node, dict) and "_target_" in node:
        own = [o.input_line or "" for o in composed.overrides if o.key_or_group.startswith("hydra.launcher.")]
        name = str(hydra.runtime.choices["hydra/launcher"])
        known = GlobalHydra.instance().config_loader().get_group_options("hydra/launcher")
        if name not in known:  # one of a folder of somebody's own: it could name any function
            problems.append(
                f"hydra/launcher: must be one of {', '.join(known)}, got {clip(name)}, which is another's file"
            )
        return Plugin(name, tuple(own))
    cls = LAUNCHERS[node["kind"]] if isinstance(node, dict) and node.get("kind") in LAUNCHERS else Local
    return typing.cast(Launcher | None, to_group(cls, node, "hydra.launcher.", problems))


def _search(composer: _Composer, overrides: list[Override]) -> Command:
    """A search: its space as data, and the corners of the space as jobs."""
    problems, mistakes = composer.problems, list[str]()

    def tree(lines: list[str]) -> dict[str, Any] | None:
        task = composer.compose(lines).task
        run = _to_settings(task, problems)
        return None if run is None else _tree(task, problems)

    how = composer.compose([o.input_line or "" for o in overrides if o.is_hydra_override()])
    launcher, options = _launcher(how, mistakes), _options(how.base.cfg.hydra, mistakes)
    base, space = explore(overrides, tree, problems)
    search = Search(options or Optuna(), base, space)
    root = _path(_resolvable(how, 0), "hydra.sweep.dir")
    jobs = [] if problems else corner_jobs(search, root, problems)
    if problems or mistakes or launcher is None:
        raise ConfigError(dict.fromkeys([*mistakes, *problems]))
    return Command(jobs, launcher, search)


def _options(hydra: DictConfig, problems: list[str]) -> Optuna | None:
    """`hydra.sweeper.*` of a search; None where it is not right."""
    if importlib.util.find_spec("optuna") is None:
        problems.append('hydra/sweeper: optuna is not installed, got optuna; pip install "regrun[optuna]"')
    sweep: Any = OmegaConf.to_container(hydra.sweep)
    if sweep["subdir"] != "${hydra.job.num}":
        problems.append("hydra.sweep.subdir: a search numbers its folders by trial; leave it out")
    node = OmegaConf.to_container(hydra.sweeper)
    is_basic = isinstance(node, dict) and "_target_" in node  # what was composed instead of what could not be
    return None if is_basic else typing.cast(Optuna | None, to_group(Optuna, node, "hydra.sweeper.", problems))


def _sweeper_problems(hydra: DictConfig) -> list[str]:
    """What a configuration file may not choose, or nobody."""
    if hydra.callbacks:
        return [
            f"hydra.callbacks: run code, and regrun runs none, got {clip(', '.join(hydra.callbacks))}; leave it out"
        ]
    name = hydra.sweeper.get("_target_", "optuna").rpartition(".")[2]
    if name == BasicSweeper.__name__:
        return []
    return [f"hydra/sweeper: must be basic, or optuna on the command line, got {clip(name)} in a file; leave it out"]


def _subdir(composed: _Composed, number: int) -> str | Path:
    """hydra.sweep.subdir; the usual one needs no resolving."""
    raw = OmegaConf.to_container(composed.base.cfg.hydra.sweep)
    if isinstance(raw, dict) and raw["subdir"] == "${hydra.job.num}":
        return str(number)
    return _path(_resolvable(composed, number), "hydra.sweep.subdir")


def _resolvable(composed: _Composed, number: int) -> DictConfig:
    """The whole configuration of one run, with what Hydra's interpolations refer to."""
    cfg = composed.task if isinstance(composed.task, DictConfig) else copy.deepcopy(composed.base.cfg)
    if not isinstance(composed.task, DictConfig):
        cfg.merge_with(composed.task)
    with open_dict(cfg.hydra):
        cfg.hydra.job.num, cfg.hydra.job.id = number, str(number)
        cfg.hydra.overrides.task = [o.input_line for o in composed.overrides if not o.is_hydra_override()]
        cfg.hydra.job.override_dirname = _dirname(cfg, composed.overrides)
    HydraConfig.instance().set_config(cfg)
    return cfg


def _path(cfg: DictConfig, key: str) -> Path:
    try:
        text = OmegaConf.select(cfg, key)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}: {_one_line(error)}; check its interpolations") from None
    if not text or not str(text).isprintable():
        raise ConfigError(f"{key}: must be a folder whose name can be printed, got {clip(repr(text))}")
    return Path(str(text))


def _dirname(cfg: DictConfig, overrides: list[Override]) -> str:
    """hydra.job.override_dirname by Hydra's own rules."""
    own, config = [o for o in overrides if not o.is_hydra_override()], cfg.hydra.job.config.override_dirname
    return str(get_overrides_dirname(own, list(config.exclude_keys), config.item_sep, config.kv_sep))


def _without_hydra(cfg: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(cfg, [k for k in map(str, cfg) if k != "hydra"])


def _to_settings(task: dict[str, Any] | DictConfig, problems: list[str]) -> s.Settings | None:
    tree = _tree(task, problems)
    return None if tree is None else _resolved(tree, problems)


def _tree(task: dict[str, Any] | DictConfig, problems: list[str]) -> dict[str, Any] | None:
    """Plain values, interpolations resolved."""
    if not isinstance(task, DictConfig):
        return task
    try:
        tree = OmegaConf.to_container(_without_hydra(task), resolve=True, throw_on_missing=True)
        return typing.cast(dict[str, Any], tree)
    except OmegaConfBaseException as error:
        problems.append(f"{error.full_key or 'config'}: {_one_line(error)}; give a value")
        return None


def _resolved(tree: dict[str, Any], problems: list[str]) -> s.Settings | None:
    settings = to_settings(tree, problems)
    return None if settings is None else s.resolve(settings)
