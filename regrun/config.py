"""Command line -> settings: compose with Hydra, collect every problem, convert. The only module that knows omegaconf.

Hydra composes the choices of groups; plain values are then set one by one on a copy of the result, by
Hydra's own function, so that all mistakes of a command are found and not just the first.
"""

import copy
import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
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
from regrun.errors import ConfigError
from regrun.paths import conf_dir

CONFIG_NAME = "config"


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
        parsed = _parse(overrides, multirun=multirun)
        lines = [o.input_line or "" for o in parsed]
        combinations = BasicSweeper.split_arguments(parsed, None)[0] if multirun else [lines]
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
    settings = _build(s.Settings, OmegaConf.to_container(OmegaConf.create(text)), "", problems)
    if problems or settings is None:
        raise ConfigError(problems)
    return typing.cast(s.Settings, settings)


def _parse(overrides: Sequence[str], *, multirun: bool) -> list[Override]:
    """Each override, or every one's problem."""
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    parsed, problems = [], []
    for line in overrides:
        try:
            override = parser.parse_override(line)
        except HydraException:
            problems.append(
                f"{line[:60]!r}: not a valid override; write key=value, and quote what the shell would split"
            )
            continue
        if override.is_sweep_override() and not multirun:
            problems.append(f"{override.key_or_group}: several values, got {line[:60]!r}; add -m to run a sweep")
        parsed.append(override)
    if problems:
        raise ConfigError(problems)
    return parsed


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
            cfg.hydra.job.override_dirname = ",".join(line for line in task if "${" not in line)
        return cfg

    def _base(self, groups: tuple[str, ...]) -> DictConfig:
        try:
            return compose(self.config_name, list(groups), return_hydra_config=True)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            self.problems.append(f"{' '.join(groups) or self.config_name}: {_one_line(error)}")
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
                f"{override.key_or_group}: no such option, got {str(name)[:60]!r}; "
                f"{_nearest(str(name), options)}choose from {', '.join(options)}"
            )
        return override.is_delete() or not unknown

    def _set(self, cfg: DictConfig, override: Override) -> None:
        key = override.key_or_group
        is_plain = not (override.is_add() or override.is_force_add() or override.is_delete())
        try:
            if is_plain and not _has(cfg, key):
                near = _nearest(key, [*_keys(cfg), "experiment"]) or "regrun --help lists them"
                self.problems.append(f"{key[:60]}: no such key; {near.removesuffix('; ')}")
            else:
                ConfigLoaderImpl._apply_overrides_to_config([override], cfg)
        except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
            self.problems.append(f"{key[:60]}: {_one_line(error)}, got {override.input_line!r:.60}")


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


def _nearest(word: str, known: Sequence[str]) -> str:
    """'did you mean X; ', or nothing. A key may also be written without its group."""
    tails = {k.rpartition(".")[2]: k for k in reversed(known)}
    close = difflib.get_close_matches(word, known, 1, 0.6)
    if not close:
        close = [tails[t] for t in difflib.get_close_matches(word.rpartition(".")[2], tails, 1, 0.7)]
    return f"did you mean {close[0]}; " if close else ""


def _one_line(error: Exception) -> str:
    """The gist of a message of Hydra's or omegaconf's: its first line, without its advice."""
    lines = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip().rstrip(".")[:120]


def _folders(configs: list[DictConfig], multirun: bool) -> list[Path]:
    """Where each run goes: hydra.run.dir, or hydra.sweep.dir / hydra.sweep.subdir."""
    folders, root = [], None
    for number, cfg in enumerate(configs):
        with open_dict(cfg.hydra):
            cfg.hydra.job.num, cfg.hydra.job.id = number, str(number)
        HydraConfig.instance().set_config(cfg)
        try:
            if multirun:
                root = root or Path(str(cfg.hydra.sweep.dir))
                folders.append(root / str(cfg.hydra.sweep.subdir))
            else:
                folders.append(Path(str(cfg.hydra.run.dir)))
        except OmegaConfBaseException as error:
            raise ConfigError(f"hydra.run.dir: {_one_line(error)}; check its interpolations") from None
    return folders


def _to_settings(cfg: DictConfig, problems: list[str]) -> s.Settings | None:
    task = OmegaConf.masked_copy(cfg, [k for k in map(str, cfg) if k != "hydra"])
    try:
        container = OmegaConf.to_container(task, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        problems.append(f"{error.full_key or 'config'}: {_one_line(error)}; give a value")
        return None
    before = len(problems)
    settings = _build(s.Settings, container, "", problems)
    return s.resolve(typing.cast(s.Settings, settings)) if len(problems) == before else None


def _build(cls: type, node: Any, where: str, problems: list[str]) -> Any:
    """A dataclass from plain containers; every unknown, missing or mistaken key becomes a problem."""
    if not isinstance(node, dict):
        problems.append(f"{where.rstrip('.')}: must be a group of settings, got {node!r:.60}; name one of its keys")
        return None
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in node:
        if key not in fields:
            near = _nearest(str(key), list(fields)) or f"it has {', '.join(fields)}; "
            problems.append(f"{where}{str(key)[:60]}: no such key; {near.removesuffix('; ')}")
    hints = typing.get_type_hints(cls)
    values = {name: _value(f, hints[name], node, where, problems) for name, f in fields.items()}
    return cls(**values)


def _value(f: dataclasses.Field[Any], hint: Any, node: dict[Any, Any], where: str, problems: list[str]) -> Any:
    key = where + f.name
    if f.name not in node:
        problems.append(f"{key}: is missing; a key cannot be deleted, only given a neutral value")
        return None
    value = node[f.name]
    if f.name in s.KINDS and not where:
        kind = value.get("kind") if isinstance(value, dict) else None
        if kind not in s.KINDS[f.name]:
            problems.append(f"{key}.kind: no such kind, got {kind!r}; choose from {', '.join(s.KINDS[f.name])}")
            return None
        return _build(s.KINDS[f.name][kind], value, f"{key}.", problems)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, f"{key}.", problems)
    return _leaf(f, hint, value, key, problems)


def _leaf(f: dataclasses.Field[Any], hint: Any, value: Any, key: str, problems: list[str]) -> Any:
    """A number, word, flag or list of numbers of the right type, in range."""
    optional = isinstance(hint, types.UnionType)
    if optional and value is None:
        return None
    plain = next(t for t in typing.get_args(hint) if t is not type(None)) if optional else hint
    is_list = typing.get_origin(plain) is list
    item = typing.get_args(plain)[0] if is_list else plain
    parts = value if is_list and isinstance(value, list) else [value]
    converted = [_convert(part, item) for part in parts]
    wanted = _wanted(f, item, is_list, optional)
    length = f.metadata.get("length", len(parts))
    wrong_type = is_list != isinstance(value, list) or None in converted or len(parts) != length
    interval, options = f.metadata.get("interval"), f.metadata.get("options")
    out_of_range = not wrong_type and (
        (interval and not all(s.is_within(part, interval) for part in converted)) or (options and value not in options)
    )
    if wrong_type or out_of_range:
        problems.append(f"{key}: must be {wanted}, got {value!r:.60}")
        return None
    return converted if is_list else converted[0]


def _convert(value: Any, kind: type) -> Any:
    """`value` as `kind` where no information is lost, else None."""
    if kind is bool or kind is str:
        return value if isinstance(value, kind) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if kind is int:
        return int(value) if float(value).is_integer() else None
    return float(value)


def _wanted(f: dataclasses.Field[Any], item: type, is_list: bool, optional: bool) -> str:
    options = f.metadata.get("options")
    word = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}[item]
    if options:
        word = f"one of {', '.join(options)}"
    if is_list:
        count = f.metadata.get("length")
        word = f"a list of {f'{count} ' if count else ''}{word.split(' ', 1)[1]}s"
    interval = f.metadata.get("interval", "(-inf, inf)")
    return word + (f" in {interval}" if interval != "(-inf, inf)" else "") + (" or null" if optional else "")
