"""What a person sees: plain lines anywhere, a live view that fits its terminal."""

import io
import math
import os
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make
from rich.cells import cell_len
from rich.console import Console

from regrun import display
from regrun.data.sources import Source
from regrun.data.split import split
from regrun.ending import Finished
from regrun.trainer import train

EPOCHS = 3
TITLE = "digits | mlp 24, 24 | reg dropout, batchnorm | adam | seed 0 | cpu (x86_64)"
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture(scope="module")
def told(digits: Source) -> list[Any]:
    """All that a short run yields."""
    run = make(trainer={"epochs": EPOCHS})
    epochs = train([run], ["run"], digits, [split(digits, run.data, run.seeds)], torch.device("cpu"))
    return [row for news in epochs for row in (news if isinstance(news, list) else [news])]


def show(view: display.Silent, told: list[Any]) -> None:
    """Let a display see a whole run, with a warning, in the order of the command."""
    view.start(TITLE, EPOCHS)
    view.warn("reg.batchnorm: the last batch of one example cannot be normalized and is left out of each epoch")
    for row in told:
        if isinstance(row, Finished):
            view.close()
            view.finish(row.outcome, Path("out"))
        else:
            view.row(row)
            if isinstance(view, display.LiveView):
                view.live.refresh()


def test_plain_output_has_one_line_for_each_epoch(told: list[Any]) -> None:
    stream = io.StringIO()
    show(display.choose("plain", stream), told)
    lines = stream.getvalue().splitlines()
    assert lines[0] == TITLE
    assert lines[1].startswith("warning: reg.batchnorm")
    epochs = [line.split()[1] for line in lines if line.startswith("epoch ")]
    assert epochs == [f"{epoch}/{EPOCHS}" for epoch in range(EPOCHS + 1)]
    assert lines[-1] == "folder: out"


def test_plain_output_has_no_control_characters(told: list[Any]) -> None:
    stream = io.StringIO()
    show(display.choose("plain", stream), told)
    assert {c for c in stream.getvalue() if unicodedata.category(c).startswith("C")} == {"\n"}


def test_silence_says_nothing(told: list[Any]) -> None:
    stream = io.StringIO()
    show(display.choose("none", stream), told)
    assert stream.getvalue() == ""


@pytest.mark.parametrize("width", [40, 60, 80])
def test_the_live_view_fits_its_terminal(width: int, told: list[Any]) -> None:
    stream = io.StringIO()
    show(display.LiveView(Console(file=stream, width=width, force_terminal=True)), told)
    lines = re.split(r"[\r\n]+", ANSI.sub("", stream.getvalue()))
    assert max(map(cell_len, lines)) <= width
    words = " ".join(lines)
    assert all(word in words for word in (f"{EPOCHS}/{EPOCHS}", "val loss", "test accuracy", "diagnosis"))


def test_a_terminal_without_utf8_gets_ascii(told: list[Any]) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    show(display.LiveView(Console(file=stream, width=80, force_terminal=True)), told)
    stream.flush()
    assert b"val loss" in stream.buffer.getvalue()


def test_plain_output_goes_on_when_nobody_reads_it(told: list[Any]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        show(display.choose("plain", stream), told)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([], ""),
        ([3.0], "▁"),
        ([2.0, 2.0, 2.0], "▁▁▁"),
        ([0.0, 1.0], "▁█"),
        ([7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0], "█▇▆▅▄▃▂▁"),
        ([0.0, math.nan, 1.0], "▁!█"),
        ([math.inf, 1.0, -math.inf], "!▁!"),
        ([math.nan], "!"),
        ([-1e300, 1e300], "▁█"),
    ],
)
def test_spark(values: list[float], line: str) -> None:
    assert display.spark(values, width=8) == line


def test_spark_thins_to_its_width_and_keeps_the_last() -> None:
    for count in range(2, 100):
        line = display.spark([*[0.0] * (count - 1), 1.0], width=10, bars="ab")
        assert line == "a" * (len(line) - 1) + "b"
        assert min(count, 5) <= len(line) <= 10


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("progress", "stream", "environment", "kind"),
    [
        ("auto", Terminal, {}, display.LiveView),
        ("auto", Terminal, {"TERM": "xterm"}, display.LiveView),
        ("auto", Terminal, {"CI": ""}, display.LiveView),
        ("auto", Terminal, {"TERM": "dumb"}, display.Plain),
        ("auto", Terminal, {"CI": "true"}, display.Plain),
        ("auto", io.StringIO, {}, display.Plain),
        ("plain", Terminal, {}, display.Plain),
        ("rich", io.StringIO, {"CI": "true", "TERM": "dumb"}, display.LiveView),
        ("none", Terminal, {}, display.Silent),
    ],
)
def test_the_display_suits_the_stream(
    progress: str,
    stream: type[io.StringIO],
    environment: dict[str, str],
    kind: type,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("CI", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert type(display.choose(progress, stream())) is kind
