"""What the command says about itself, and what a shell completes."""

import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from regrun.cli import main
from regrun.paths import conf_dir

REGRUN = Path(sys.executable).with_name("regrun")
GROUPS = sorted(path.name for path in conf_dir().iterdir() if path.is_dir())
OPTIONS = {group: sorted(path.stem for path in (conf_dir() / group).glob("*.yaml")) for group in GROUPS}


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """What the command prints, all of it on stdout."""
    assert main(list(argv)) == 0
    output, errors = capsys.readouterr()
    assert errors == ""
    return output


@pytest.mark.parametrize("group", GROUPS)
def test_help_lists_every_option_with_what_it_is(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, after = said(capsys, "--help").partition(f"\n  {group}\n")
    listed = re.match(r"(    \S+ +\S.*\n)*", after)
    assert listed
    assert [line.split()[0] for line in listed[0].splitlines()] == OPTIONS[group]


def test_short_and_long_help_are_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "-h") == said(capsys, "--help", "seed=3")


def test_version_is_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "--version") == f"regrun {version('regrun')}\n"


def test_the_command_is_beside_the_interpreter() -> None:
    done = subprocess.run([REGRUN, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"regrun {version('regrun')}\n"


@pytest.mark.parametrize(
    ("shell", "line"),
    [
        ("bash", "-F hydra_bash_completion regrun"),
        ("zsh", "-F hydra_bash_completion regrun"),
        ("fish", "complete -c regrun"),
    ],
)
def test_each_shell_gets_its_script(shell: str, line: str) -> None:
    done = subprocess.run([REGRUN, "-sc", f"install={shell}"], capture_output=True, text=True, check=True)
    assert line in done.stdout
    assert done.stderr == ""


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("line", "completions"),
    [
        ("regrun model=", [f"model={option}" for option in OPTIONS["model"]]),
        ("regrun seed=1 optimizer=adam", ["optimizer=adam", "optimizer=adamax", "optimizer=adamw"]),
        ("regrun optimizer=adam model.wid", ["model.width=", "model.widths="]),
    ],
)
def test_bash_completes(line: str, completions: list[str], tmp_path: Path) -> None:
    script = f"""
        PATH="{REGRUN.parent}:$PATH"
        eval "$(regrun -sc install=bash)"
        COMP_LINE="{line}" COMP_POINT={len(line)} COMP_CWORD={len(line.split()) - 1} COMP_WORDS=({line})
        hydra_bash_completion
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split()) == completions
    assert not list(tmp_path.iterdir())
