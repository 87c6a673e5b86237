"""Folders of configurations of one's own, looked at before Hydra reads them: no file in them stands for too much."""

from collections.abc import Iterator
from pathlib import Path

import yaml

from regrun import foreign
from regrun.errors import DataError, clip
from regrun.paths import conf_dir, is_folder

MOST_VALUES = 20_000  # that a file stands for; all settings together are 300


def problem(folder: str, key: str, main: str | None = None) -> str | None:
    """What is wrong with a folder that `key` names, or its main configuration. What a file says, Hydra tells."""
    if not is_folder(folder):
        return f"{key}: must name folders, got {clip(folder)}; create it first"
    for path in _files(Path(folder), main):
        try:
            _check(foreign.text(path, foreign.MOST_YAML))
        except yaml.YAMLError:
            continue
        except (DataError, ValueError) as error:
            return f"{key}: {clip(str(path), 90)} is no configuration: {clip(str(error), 90)}"
    return None


def _check(text: str) -> None:
    """Raise ValueError for aliases of aliases of ...: what is written once may stand for a thousand values."""
    sizes: dict[str | None, int] = {}  # of what has a name, for aliases
    open_: list[tuple[str | None, int]] = [(None, 0)]  # name of each collection that has begun, and its values so far
    for number, event in foreign.yaml_events(text):
        name, size = getattr(event, "anchor", None), 1
        match event:
            case yaml.CollectionStartEvent():
                open_.append((name, 1))
                continue
            case yaml.CollectionEndEvent():
                name, size = open_.pop()
            case yaml.AliasEvent():
                name, size = None, sizes.get(name, 1)
            case yaml.ScalarEvent():
                pass
            case _:
                continue
        sizes[name] = size
        around, before = open_.pop()
        open_.append((around, before + size))
        if before + size > MOST_VALUES:
            raise ValueError(f"line {number} stands for more than {MOST_VALUES:,} values")


def _files(folder: Path, main: str | None) -> Iterator[Path]:
    """The files that can be options of a group, and the main one."""
    for group in (path.relative_to(conf_dir()) for path in conf_dir().rglob("*") if path.is_dir()):
        yield from sorted((folder / group).glob("*.yaml"))
    if main is not None and (folder / f"{main}.yaml").is_file():
        yield folder / f"{main}.yaml"
