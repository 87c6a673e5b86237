"""Command line -> settings: compose with Hydra, collect every problem, convert. The only module that knows omegaconf.

Hydra composes the choices of groups; plain values are then set one by one on a copy of the result, by
Hydra's own function, so that all mistakes of a command are found and not just the first.
"""

import copy
import dataclasses
import functools
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from omegaconf.errors import OmegaConfBaseException

from regrun import checks
from regrun import settings as s
from regrun.conversion import nearest, to_settings
from regrun.errors import ConfigError, clip
from regrun.paths import conf_dir, is_folder

CONFIG_NAME = "config"
LONGEST_KEY = 200
HYDRA_KEYS = (
    "hydra.run.dir",
    "hydra.sweep.",
    "hydra.searchpath",
    "hydra.job.name",
    "hydra.job.config.",
    "hydra/output",
)


@dataclass(frozen=True)
class Job:
    """One run of a command: its checked settings, and the folder that Hydra's configuration gives it."""

    settings: s.Settings
    folder: Path


def register() -> None:
    """Store the neutral values of every settings class where the YAML files find them, under `schema/`."""
    store = ConfigStore.instance()
    for group, kinds in s.KINDS.items():
        classes = {cls: kind for kind, cls in reversed(kinds.items())}  # each class under its first kind
        for cls, kind in classes.items():
            store.store(kind, dataclasses.asdict(cls()), group=f"schema/{group}")
    rest = {name: value for name, value in dataclasses.asdict(s.Settings()).items() if name not in s.KINDS}
    store.store("main", rest, group="schema")


def jobs(
    overrides: Sequence[str],
    *,
    multirun: bool,
    config_dir: Path | None = None,
    config_name: str | None = None,
) -> list[Job]:
    """Every run that a command line means, with types and ranges checked. Raises ConfigError with all problems."""
    register()
    if config_dir is not None:
        overrides = [*overrides, f"hydra.searchpath=[file://{config_dir.absolute()}]"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="regrun"):
        combinations = _combinations(_parse(overrides, multirun=multirun), multirun=multirun)
        composer = _Composer(config_name or CONFIG_NAME)
        configs = [composer.compose(lines) for lines in combinations]
        runs = [run for cfg in configs if (run := _to_settings(cfg, composer.problems)) is not None]
        problems = [*composer.problems, *(line for run in runs for line in checks.conflicts(run))]
        if problems:
            raise ConfigError(dict.fromkeys(problems))
        return [Job(run, folder) for run, folder in zip(runs, _folders(configs, multirun), strict=True)]


def compose_with_hydra(overrides: Sequence[str]) -> dict[str, Any]:
    """The task's configuration as Hydra alone composes it: what `jobs` must agree with."""
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="regrun"):
        container: dict[str, Any] = OmegaConf.to_container(compose(CONFIG_NAME, list(overrides)))  # type: ignore[assignment]
        return container


def to_yaml(settings: s.Settings) -> str:
    """The resolved settings as YAML."""
    return OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(settings)))


def from_yaml(text: str) -> s.Settings:
    """The settings that `to_yaml` wrote. Raises ConfigError."""
    problems: list[str] = []
    settings = to_settings(OmegaConf.to_container(OmegaConf.create(text)), problems)
    if settings is None:
        raise ConfigError(problems)
    return settings


def _parse(overrides: Sequence[str], *, multirun: bool) -> list[Override]:
    """Each override, or every one's problem."""
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    parsed, problems = [], []
    for line in overrides:
        try:
            (override,) = parser.parse_overrides([line])
            problem = _override_problem(override, line, multirun=multirun)
        except (HydraException, ValueError):
            problem = f"{clip(line)!r}: not a valid override; write key=value, and quote what the shell would split"
        if problem is None:
            parsed.append(override)
        else:
            problems.append(problem)
    if problems:
        raise ConfigError(problems)
    return parsed


def _override_problem(override: Override, line: str, *, multirun: bool) -> str | None:
    """What is wrong with an override that Hydra can parse, before anything is composed."""
    key = override.key_or_group
    if not key:
        return f"{clip(line)!r}: names no key; write key=value"
    if len(key) > LONGEST_KEY:
        return f"{clip(key)}: no such key; regrun --help lists them"
    if override.is_hydra_override() and not key.startswith(HYDRA_KEYS):
        return (
            f"{key}: has no effect here, got {clip(line)!r}; regrun takes {', '.join(HYDRA_KEYS)} of Hydra's own keys"
        )
    if override.is_sweep_override() and not multirun:
        return f"{key}: several values, got {clip(line)!r}; add -m to run a sweep"
    if override.is_interval_sweep():
        return f"{key}: an interval has no list of values, got {clip(line)!r}; use range(first,last,step)"
    if key == "hydra.searchpath":
        paths = typing.cast(list[str], override.value())
        missing = [p for p in paths if p.startswith("file://") and not is_folder(p[7:])]
        return f"{key}: must name folders, got {clip(missing[0])}; create it first" if missing else None
    return None


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
    return BasicSweeper.split_arguments(overrides, None)[0]


class _Composer:
    """Composes many lists of overrides, each choice of groups once, and collects the problems of all."""

    def __init__(self, config_name: str) -> None:
        self.config_name = config_name
        self.problems: list[str] = []
        self.loader = GlobalHydra.instance().config_loader()
        self.parser = OverridesParser.create(config_loader=self.loader)
        self.base = functools.cache(self._base)
        self.options = functools.cache(self.loader.get_group_options)

    def compose(self, lines: Sequence[str]) -> DictConfig:
        """The configuration, `hydra` node included; mistaken overrides are noted and left out."""
        overrides = self.parser.parse_overrides(list(lines))
        groups = [o for o in overrides if self._is_composed(o)]
        known = tuple(o.input_line or "" for o in groups if self._is_known_choice(o))
        cfg = copy.deepcopy(self.base(known))
        for override in overrides:
            if override not in groups:
                self._set(cfg, override)
        with open_dict(cfg.hydra):
            task = [o.input_line or "" for o in overrides if not o.is_hydra_override()]
            cfg.hydra.overrides.task = task
            cfg.hydra.job.override_dirname = _dirname(cfg, overrides)
        return cfg

    def _base(self, groups: tuple[str, ...]) -> DictConfig:
        try:
            return compose(self.config_name, list(groups), return_hydra_config=True)
        except (HydraException, OmegaConfBaseException, ValueError, OSError) as error:
            self.problems.append(f"{clip(' '.join(groups) or self.config_name)}: {_one_line(error)}")
            return compose(CONFIG_NAME, return_hydra_config=True)

    def _is_composed(self, override: Override) -> bool:
        """Whether Hydra must see it while it composes: the choice of a group, or where groups are found."""
        key = override.key_or_group
        is_group = bool(self.options(key)) and not isinstance(override.value(), dict)
        return is_group or override.package is not None or key == "hydra.searchpath"

    def _is_known_choice(self, override: Override) -> bool:
        options, value = self.options(override.key_or_group), override.value()
        names = value if isinstance(value, list) else [value]
        unknown = [n for n in names if options and n is not None and str(n) not in options]
        for name in unknown if not override.is_delete() else []:
            self.problems.append(
                f"{override.key_or_group}: no such option, got {clip(str(name))!r}; "
                f"{nearest(str(name), options)}choose from {', '.join(options)}"
            )
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
    lines = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
    return clip(lines[0].strip().rstrip("."), 120)


def _folders(configs: list[DictConfig], multirun: bool) -> list[Path]:
    """Where each run goes: hydra.run.dir, or hydra.sweep.dir / hydra.sweep.subdir."""
    folders, root = [], None
    for number, cfg in enumerate(configs):
        with open_dict(cfg.hydra):
            cfg.hydra.job.num, cfg.hydra.job.id = number, str(number)
        HydraConfig.instance().set_config(cfg)
        if multirun:
            root = root or _path(cfg, "hydra.sweep.dir")
            folders.append(root / _path(cfg, "hydra.sweep.subdir"))
        else:
            folders.append(_path(cfg, "hydra.run.dir"))
    return folders


def _path(cfg: DictConfig, key: str) -> Path:
    try:
        text = OmegaConf.select(cfg, key)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}: {_one_line(error)}; check its interpolations") from None
    if not text:
        raise ConfigError(f"{key}: must be a folder, got {text!r}; name one")
    return Path(str(text))


def _dirname(cfg: DictConfig, overrides: list[Override]) -> str:
    """hydra.job.override_dirname by Hydra's own rules."""
    own, config = [o for o in overrides if not o.is_hydra_override()], cfg.hydra.job.config.override_dirname
    return str(get_overrides_dirname(own, list(config.exclude_keys), config.item_sep, config.kv_sep))


def _to_settings(cfg: DictConfig, problems: list[str]) -> s.Settings | None:
    task = OmegaConf.masked_copy(cfg, [k for k in map(str, cfg) if k != "hydra"])
    try:
        container = OmegaConf.to_container(task, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        problems.append(f"{error.full_key or 'config'}: {_one_line(error)}; give a value")
        return None
    settings = to_settings(container, problems)
    return None if settings is None else s.resolve(settings)
