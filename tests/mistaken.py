"""Mistaken overrides without end, each with the key that its one line must name: made from the settings themselves."""

import io
import random
import string
import types
import typing
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import Field
from pathlib import Path
from typing import Any

from regrun import settings as s
from regrun.cli import main
from regrun.paths import conf_dir

Mistake = tuple[list[str], str]  # the words of a command, and what the line that it is refused with begins with
Kind = Callable[[random.Random], Mistake | None]
FIELDS = s.all_fields()
GROUPS = {path.name: sorted(p.stem for p in path.glob("*.yaml")) for path in conf_dir().iterdir() if path.is_dir()}
NOISE = ["深い", "größe", "é" * 20, "👍", "a b", "-", "%s", "{}", "../..", "$(ls)", "`id`", ";ls", "<b>", "0x10"]
CUT = ["=[", "={", "=[1,", "='x", '="x', "=${", "=${a", "={a:", "==1", "=)", "=a b=c(", "=(", "=]", "=}{"]
SIGNS = ["\x1b[2J", "\u202e", "\x07", "\n", "\r", "\t", "\x00", "\u2028"]


def mistakes(seed: int) -> Iterator[Mistake]:
    """One after another, of every kind in turn."""
    return (mistake for together in zip(*(of(kind, seed) for kind in KINDS), strict=True) for mistake in together)


def of(kind: Kind, seed: int) -> Iterator[Mistake]:
    """Those of one kind."""
    draw = random.Random(f"{kind.__name__} {seed}")
    while True:
        if (found := kind(draw)) is not None:
            yield found


def leaves() -> dict[str, Field[Any]]:
    """The settings that the default kinds have."""
    own = s.flatten(s.Settings())
    return {name: f for name, f in FIELDS.items() if name in own and not name.endswith(".kind")}


def plain_type(f: Field[Any]) -> Any:
    """Of `int | None`: int."""
    hint = f.type
    return next(t for t in typing.get_args(hint) if t is not type(None)) if isinstance(hint, types.UnionType) else hint


def misspelt(draw: random.Random) -> Mistake | None:
    key = draw.choice(list(leaves()))
    group, _, name = key.rpartition(".")
    at = draw.randrange(len(name))
    wrong = draw.choice(
        [name[:at] + name[at + 1 :], name[:at] + draw.choice(string.ascii_lowercase) + name[at:], name * 2]
    )
    full = f"{group}.{wrong}" if group else wrong
    return ([f"{full}=1"], full) if wrong and full not in FIELDS and full not in GROUPS else None


def unknown(draw: random.Random) -> Mistake:
    key = "".join(draw.choices(string.ascii_lowercase + "_.", k=draw.randint(1, 30))).strip("._") or "q"
    key = ".".join(part for part in key.split(".") if part) + "q7"
    return [f"{draw.choice(['', '+', '++'])}{key}={draw.choice(['1', 'x', '[1]', 'null'])}"], key.split(".")[0]


def another_type(draw: random.Random) -> Mistake | None:
    key, f = draw.choice(list(leaves().items()))
    wrong = {int: ["1.5", "x", "true", "[1]", "{a:1}", "'1'"], float: ["x", "true", "[1]", "{a:1}", "'1'", "1e"]}
    wrong |= {bool: ["1", "x", "[true]", "'true'", "yes"], str: ["1", "true", "[a]", "{a:1}"]}
    plain = plain_type(f)
    values = ["1", "x", "[x]", "{a:1}", "[[1]]"] if typing.get_origin(plain) is list else wrong[plain]
    if f.metadata.get("options") == tuple(s.TRACKERS):
        values = ["tensorboard", "[x]", "[1]"]
    return [f"{key}={draw.choice(values)}"], key


def out_of_range(draw: random.Random) -> Mistake | None:
    numbers = {k: f for k, f in leaves().items() if f.metadata.get("interval", "(-inf, inf)") != "(-inf, inf)"}
    key, f = draw.choice(list(numbers.items()))
    low, high = (float(end) for end in f.metadata["interval"][1:-1].split(","))
    values = ["nan", "inf", "-inf", "1e400", "-1e300", "9" * draw.choice([40, 400, 5000])]
    values += [str(int(low) - draw.randint(1, 9))] if low > float("-inf") else []
    values += [str(int(high) + draw.randint(1, 9) * 10)] if high < float("inf") else []
    value = draw.choice(values)
    is_list = typing.get_origin(plain_type(f)) is list
    return [f"{key}=[{value}]" if is_list else f"{key}={value}"], key


def no_option(draw: random.Random) -> Mistake:
    chosen = {k: f for k, f in leaves().items() if f.metadata.get("options") and f.type is str}
    key, f = draw.choice(list(chosen.items()))
    return [f"{key}={draw.choice(f.metadata['options'])}{draw.choice('xyz')}q"], key


def no_choice(draw: random.Random) -> Mistake:
    group = draw.choice(["model", "reg", "optimizer", "scheduler", "data", "trainer"])
    word = draw.choice(GROUPS[group]) + draw.choice(["x7", "_", "q9"])
    return [draw.choice([f"{group}={word}", f"{group}=[{word}]"])], group


def no_grammar(draw: random.Random) -> Mistake:
    key = draw.choice(list(leaves()))
    tail = draw.choice(
        ["=[", "={", "=[1,", "='x", '="x', "=${", "=${a", "={a:", "==1", "=)", "=a b=c(", "=(", "=]", "=}{"]
    )
    return [f"{key}{tail}"], f"'{key}"


def noise(draw: random.Random) -> Mistake:
    word = draw.choice(NOISE)
    return [draw.choice([f"{word}=1", word, f"model.{word}=1"])], ""


def steering(draw: random.Random) -> Mistake:
    key, sign = (
        draw.choice(list(leaves())),
        draw.choice(["\x1b[2J", "\u202e", "\x07", "\n", "\r", "\t", "\x00", "\u2028"]),
    )
    return [draw.choice([f"{key}='a{sign}b'", f"{key}{sign}=1", f"{key}=a{sign}b"])], ""


def long(draw: random.Random) -> Mistake:
    key, size = draw.choice(list(leaves())), draw.choice([1000, 100_000, 1_000_000])
    return [draw.choice([f"{key}={'x' * size}q", f"{'k' * size}=1", f"{key}=[{'1,' * (size // 1000)}x]"])], ""


def no_value(draw: random.Random) -> Mistake:
    key = draw.choice(list(leaves()))
    reference = draw.choice(["nope", "model.nope", "oc.env:NO_SUCH_VARIABLE", "hydra.nope", "no:x", f"{key}"])
    return [f"{key}=${{{reference}}}"], key


def adding(draw: random.Random) -> Mistake:
    own = s.flatten(s.Settings())
    key = draw.choice([k for k in leaves() if own[k] is not None])  # Hydra adds to a null
    group, dot, _ = key.partition(".")
    return draw.choice([([f"~{key}"], key), ([f"+{key}=1"], key), ([f"+{group}.q7=1"], f"{group}.q7" if dot else key)])


def several(draw: random.Random) -> Mistake:
    key = draw.choice(list(leaves()))
    return [f"{key}={draw.choice(['1,2', 'range(3)', 'choice(a,b)', 'interval(0,1)', 'shuffle(1,2)', 'glob(*)'])}"], key


def of_hydra(draw: random.Random) -> Mistake:
    names = ["callbacks.x._target_", "job_logging.root", "verbose", "mode", "output_subdir", "runtime.cwd", "env"]
    key = draw.choice(names)
    return [f"{draw.choice(['', '+', '++'])}hydra.{key}=os.system"], f"hydra.{key}"


KINDS: list[Kind] = [
    *(misspelt, unknown, another_type, out_of_range, no_option, no_choice, no_grammar, noise),
    *(steering, long, no_value, adding, several, of_hydra),
]


def problem(words: list[str], where: str) -> str | None:
    """What is wrong with how the command refuses these words; None if nothing is."""
    before = sorted(Path().iterdir())
    with redirect_stdout(io.StringIO()) as output, redirect_stderr(io.StringIO()) as errors:
        try:
            code = main(words)
        except BaseException as error:
            return f"{type(error).__name__}: {error}"
    lines = errors.getvalue().split("\n")[:-1]
    if code != 2 or output.getvalue() or sorted(Path().iterdir()) != before:
        return f"exit code {code}, output {output.getvalue()!r}, {sorted(Path().iterdir())}"
    if not lines or len(lines) > 3 or not all(line.startswith("regrun: ") and line.isprintable() for line in lines):
        return f"{len(lines)} lines: {errors.getvalue()!r}"
    quoted = where.lstrip("'")
    begins = (f"regrun: {where}", f"regrun: '{quoted}", f'regrun: "{quoted}')  # a word that is no override is quoted
    if max(map(len, lines)) > 230 or not any(line.startswith(begins) for line in lines):
        return f"does not begin with {where}, or is long: {lines}"
    return None
