"""A folder's report: it says what the tables say, is safe to open, and a browser has nothing to complain about."""

import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import chromium
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

from regrun.cli import main
from regrun.report import drawing, factors, figures, folder, sections, svg

SWEEP = [
    "-m",
    "model=shallow",
    "model.width=8,16",
    "optimizer=sgd",
    "optimizer.lr=0.1,0.3,1e30",
    "seed=range(3)",
    "trainer.epochs=4",
    "trainer.progress=none",
]
HOSTILE = "</td></svg><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">'&"
needs_chromium = pytest.mark.skipif(chromium.PROGRAM is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six settings from three seeds each, a third of which diverge."""
    root = tmp_path_factory.mktemp("report") / "s"
    assert main([*SWEEP, f"hydra.sweep.dir={root}"]) == 0
    return root


@pytest.fixture(scope="module")
def page(sweep: Path) -> Path:
    assert main(["report", str(sweep)]) == 0
    return sweep / "report.html"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A single run."""
    root = tmp_path_factory.mktemp("alone") / "r"
    assert main(["model=linear", "trainer.epochs=1", "trainer.progress=none", f"hydra.run.dir={root}"]) == 0
    return root


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Chromium]:
    found = chromium.Chromium(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


class Tags(HTMLParser):
    """How often each element is there, and every attribute that could reach out or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.reaching: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        names = [(name, value or "") for name, value in attrs]
        self.reaching += [f"{n}={v}" for n, v in names if n.startswith("on") or (n in ("src", "href") and v[:1] != "#")]


def copied(source: Path, target: Path, **changes: dict[str, str]) -> Path:
    """A folder with the tables of another, in which every cell of some columns is changed: table={column: cell}."""
    target.mkdir()
    for path in source.glob("*.csv"):
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        for column, cell in changes.get(path.stem, {}).items():
            frame[column] = cell
        frame.to_csv(target / path.name, index=False, lineterminator="\n")
    return target


def test_settings_have_the_means_and_intervals_of_effects_csv(sweep: Path) -> None:
    found = folder.read(sweep)
    effects = pd.read_csv(sweep / "effects.csv").set_index(["model.width", "optimizer.lr"])
    assert len(found.settings) == 6
    for setting in found.settings:
        row = effects.loc[(int(setting.values["model.width"]), float(setting.values["optimizer.lr"]))]
        for column in ("val_accuracy_best", "test_accuracy_best", "last_epoch"):
            mean = setting.mean(column)
            assert mean is not None
            expected = [row[f"{column}_{part}"] for part in ("mean", "low", "high")]
            assert [mean.mean, mean.low, mean.high] == pytest.approx(expected, rel=1e-12)


def test_an_effect_is_the_mean_over_seeds_of_paired_differences(sweep: Path) -> None:
    table = pd.read_csv(sweep / "summary.csv").set_index(["optimizer.lr", "seed", "model.width"]).val_accuracy_best
    found = {effect.after: effect for effect in factors.effects(folder.read(sweep))}
    differences = (table.xs(16, level=2) - table.xs(8, level=2)).groupby("seed").mean()
    effect = found["width=16"]
    assert (effect.before, effect.pairs, effect.val.n) == ("width=8", 9, 3)
    low, high = stats.t.interval(0.95, 2, differences.mean(), stats.sem(differences))
    assert [effect.val.mean, effect.val.low, effect.val.high] == pytest.approx([differences.mean(), low, high])


def test_a_curve_is_the_mean_over_seeds_of_each_epoch(sweep: Path) -> None:
    found = folder.read(sweep)
    table = pd.read_csv(sweep / "curves.csv")
    best = found.settings[0]
    ids = [row["run_id"] for row in best.runs]
    own = table[table.run_id.isin(ids) & (table.split == "val")].groupby("epoch").loss.mean()
    points = found.over_seeds(best, "val", "loss")
    assert {epoch: sum(values) / 3 for epoch, values in points.items()} == pytest.approx(own.to_dict())


def test_the_page_needs_nothing_else(page: Path) -> None:
    found = Tags(page.read_text(encoding="utf-8"))
    assert found.reaching == ["href=data:,"]
    assert found.tags.count("script") == 1
    assert set(found.tags).isdisjoint({"img", "iframe", "object", "embed", "form", "base"})


def test_every_picture_has_a_title_and_a_description(page: Path) -> None:
    pictures = re.findall(r"<svg.*?</svg>", page.read_text(encoding="utf-8"))
    assert len(pictures) > 20
    for picture in pictures:
        root = ET.fromstring(picture)
        names = root.get("aria-labelledby", "").split()
        assert root.get("role") == "img"
        assert [root.find(f"*[@id='{name}']").text != "" for name in names] == [True, True]  # type: ignore[union-attr]


def test_the_same_tables_give_the_same_bytes(page: Path, sweep: Path) -> None:
    before = page.read_bytes()
    assert main(["report", str(sweep)]) == 0
    assert page.read_bytes() == before


def test_runs_that_diverged_are_told_and_success_has_an_interval(sweep: Path, page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "6 of 18 runs did not end well." in text and "6 diverged of 18 runs." in text
    for setting in folder.read(sweep).settings:
        ok = 0 if setting.values["optimizer.lr"] == "1e+30" else 3
        expected = stats.binomtest(ok, 3).proportion_ci(method="wilson")
        assert setting.success is not None
        found = [setting.success.mean, setting.success.low, setting.success.high]
        assert found == pytest.approx([ok / 3, expected.low, expected.high])
    assert text.count("<td>0 of 3, 0 [0, 56] %</td>") == 2 and text.count("<td>3 of 3, 100 [44, 100] %</td>") == 4


def test_the_result_stands_first(sweep: Path, page: Path) -> None:
    best = folder.read(sweep).settings[0]
    val, test = (best.mean(f"{split}_accuracy_best") for split in ("val", "test"))
    assert val is not None and test is not None and val.low is not None and val.high is not None
    line = (
        f"Best by val: {best.label}. Accuracy {100 * val.mean:.1f} [{100 * val.low:.1f}, {100 * val.high:.1f}] % on val"
    )
    text = page.read_text(encoding="utf-8")
    assert f"{line} and {100 * test.mean:.1f} [" in text and text.index(line) < text.index("<h2>Effects")


def test_provenance_names_data_code_and_commit(sweep: Path, page: Path) -> None:
    row, text = folder.read(sweep).runs[0], page.read_text(encoding="utf-8")
    for name in ("data_hash", "git", "code", "versions"):
        told = re.escape(row[name][: 12 if name == "git" else None])
        assert re.search(f'<td>{name}</td><td(?: class="n")?>{told}</td>', text)  # a hash may be all digits


@pytest.mark.parametrize(
    "changes",
    [
        {
            "summary": {
                "error": HOSTILE,
                "diagnosis": HOSTILE,
                "versions": HOSTILE,
                "device": HOSTILE,
                "status": HOSTILE,
            }
        },
        {"summary": {"data.name": HOSTILE, "stop_reason": HOSTILE, "seed": HOSTILE, "num_parameters": HOSTILE}},
        {"layers": {"layer": HOSTILE}, "curves": {"split": HOSTILE}},
        {"summary": {"val_accuracy_best": "1e999", "gap": "nan", "last_epoch": "-inf", "best_epoch": "1_0"}},
    ],
)
def test_what_a_cell_says_stays_a_text(
    sweep: Path, tmp_path: Path, changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    root = copied(sweep, tmp_path / "<b>s", **changes)
    (root / "ledger.csv").write_text(f'look,"{HOSTILE.replace(chr(34), chr(34) * 2)}"\n1,<script>\n', encoding="utf-8")
    assert main(["report", str(root)]) == 0
    found = Tags((root / "report.html").read_text(encoding="utf-8"))
    assert found.reaching == ["href=data:,"]
    assert found.tags.count("script") == 1
    for own in (d for section in sections.sections(folder.read(root)) for d in section.drawings):
        tags = {element.tag.partition("}")[2] for element in ET.fromstring(svg.standalone(own)).iter()}
        assert tags <= {"svg", "title", "desc", "rect", "polyline", "polygon", "circle", "text"}
    capsys.readouterr()
    assert main(["report", str(root), "--terminal"]) == 0
    assert "\x1b" not in capsys.readouterr().out


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_a_browser_shows_the_page(page: Path, browser: chromium.Chromium, width: int, scheme: str) -> None:
    """Nothing is complained about, asked for, or wider than the window; no texts of a picture overlap or leave it."""
    browser.open(page, width=width, scheme=scheme)
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.misplaced() == []
    letters = browser.value(
        """Math.min(...[...document.querySelectorAll("svg text")].map((t) => t.getBoundingClientRect().height))"""
    )
    assert letters >= 11
    background = browser.value("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 27)"}[scheme]
    assert browser.errors == []


COLUMN = """[...[...document.querySelectorAll("h3")].find((h) => h.textContent.startsWith("Settings"))
  .parentElement.querySelector("table").tBodies[0].rows].filter((r) => !r.hidden).map((r) => r.cells[%d].textContent)"""


@needs_chromium
def test_tables_sort_and_filter(page: Path, browser: chromium.Chromium) -> None:
    browser.open(page, width=1400)
    losses = [float(cell.split()[0]) if cell != "none" else math.inf for cell in browser.value(COLUMN % 4)]
    button = """[...document.querySelectorAll("th button")].find((b) => b.textContent === "val loss")"""
    browser.value(f"{button}.click()")
    ascending = [float(cell.split()[0]) if cell != "none" else math.inf for cell in browser.value(COLUMN % 4)]
    assert ascending == sorted(losses)
    assert browser.value(f"""{button}.parentElement.getAttribute("aria-sort")""") == "ascending"
    long = """[...document.querySelectorAll("details")].at(-1)"""
    browser.value(f"{long}.open = true")
    for words, expected in (("DIVERGED 1e+30", 6), ("diverged nowhere", 0), ("", 18)):
        browser.value(f"""(() => {{ const input = {long}.querySelector("input"); input.value = "{words}";
            input.dispatchEvent(new Event("input")); }})()""")
        shown = browser.value(f"""[...{long}.querySelectorAll("tbody tr")].filter((r) => !r.hidden).length""")
        assert shown == expected
    assert browser.errors == []


@needs_chromium
def test_the_page_says_the_same_without_scripts(page: Path, browser: chromium.Chromium) -> None:
    browser.open(page, width=1400)
    cells = """[...document.querySelectorAll("th, td, text, p")].map((e) => e.textContent)"""
    expected = browser.value(cells)
    browser.open(page, width=1400, scripts=False)
    assert browser.value("document.querySelectorAll('th button, input').length") == 0
    assert browser.value(cells) == expected


@needs_chromium
def test_no_cell_runs_in_a_browser(sweep: Path, tmp_path: Path, browser: chromium.Chromium) -> None:
    root = copied(sweep, tmp_path / "s", summary={"error": HOSTILE, "versions": HOSTILE}, layers={"layer": HOSTILE})
    assert main(["report", str(root)]) == 0
    browser.open(root / "report.html", width=1400)
    assert browser.value("document.title") == "regrun report: s"
    assert browser.errors == []


@needs_chromium
def test_another_script_would_not_run(page: Path, tmp_path: Path, browser: chromium.Chromium) -> None:
    """Even where a text were not escaped."""
    text = page.read_text(encoding="utf-8").replace("<main>", "<main><script>document.title = 'owned'</script>")
    (tmp_path / "p.html").write_text(text, encoding="utf-8")
    browser.open(tmp_path / "p.html", width=1400)
    assert browser.value("document.title") == "regrun report: s"
    assert len(browser.errors) == 1
    assert "Content Security Policy" in browser.errors.pop()


def test_pictures_are_files_twice(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(alone), "--pictures"]) == 0
    drawings = [drawing for section in sections.sections(folder.read(alone)) for drawing in section.drawings]
    names = sorted(f"{d.name}.{kind}" for d in drawings for kind in ("png", "svg"))
    assert sorted(path.name for path in (alone / "pictures").iterdir()) == names
    for d in drawings:
        with Image.open(alone / "pictures" / f"{d.name}.png") as image:
            assert image.size == (int(2 * d.width), int(2 * d.height))
        assert "var(" not in (alone / "pictures" / f"{d.name}.svg").read_text(encoding="utf-8")
    assert f"pictures: {len(drawings)} in" in capsys.readouterr().out


def test_the_terminal_gets_tables_and_no_file(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = copied(sweep, tmp_path / "s")
    before = sorted(root.iterdir())
    assert main(["report", str(root), "--terminal"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(re.match(r"width=16 lr=0.3 +3 +\d\d\.\d \[", line) for line in lines)
    assert sorted(root.iterdir()) == before


def test_a_single_run_has_a_report(alone: Path) -> None:
    assert main(["report", str(alone)]) == 0
    text = (alone / "report.html").read_text(encoding="utf-8")
    assert "1 run of 1 setting on digits." in text
    assert "n = 1 gives no interval" in text


def test_a_sweep_that_has_not_ended_has_a_report(sweep: Path, tmp_path: Path) -> None:
    root = copied(sweep, tmp_path / "s")
    for name in ("curves.csv", "layers.csv", "effects.csv"):
        (root / name).unlink()
    lines = (root / "summary.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (root / "summary.csv").write_text("".join(lines[:3]) + lines[3][:40], encoding="utf-8")
    assert main(["report", str(root)]) == 0
    text = (root / "report.html").read_text(encoding="utf-8")
    assert "16 runs of the plan have not ended" in text
    assert "curves.csv is not there yet" in text


def test_a_hundred_runs_of_their_own_settings_stay_below_2_mb(sweep: Path, tmp_path: Path) -> None:
    root = tmp_path / "s"
    root.mkdir()
    row = pd.read_csv(sweep / "summary.csv", dtype=str, keep_default_na=False).iloc[[0]]
    runs = pd.concat([row.assign(run_id=f"r{i}", **{"optimizer.lr": repr(0.1 + i / 1000)}) for i in range(100)])
    runs.to_csv(root / "summary.csv", index=False)
    for name, per_epoch in (("curves.csv", 2), ("layers.csv", 2)):
        table = pd.read_csv(sweep / name, dtype=str, keep_default_na=False).iloc[:per_epoch]
        own = pd.concat([table.assign(epoch=str(epoch)) for epoch in range(101)])
        pd.concat([own.assign(run_id=f"r{i}") for i in range(100)]).to_csv(root / name, index=False)
    assert main(["report", str(root)]) == 0
    assert (root / "report.html").stat().st_size < 2_000_000


MISTAKES = [
    (["report"], 2, "report: must be followed by the folder of a run or a sweep, got nothing"),
    (["report", "nowhere"], 2, "report: must be followed by the folder of a run or a sweep, got 'nowhere'"),
    (["report", "."], 2, "report: must be followed by a folder with a summary.csv, got '.'"),
    (["report", ".", ".."], 2, "report: takes one folder, got '..', too"),
    (["--pictures"], 2, "--pictures: is for regrun report; leave it out"),
    (["collect", ".", "--terminal"], 2, "--terminal: is for regrun report; leave it out"),
]


@pytest.mark.parametrize(("words", "code", "says"), MISTAKES)
def test_a_mistake_is_one_line(
    words: list[str], code: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"regrun: {says}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("summary.csv", b"run_id,status\nx,ok\n"),
        ("summary.csv", b"\xff\xfe\n\n"),
        ("curves.csv", b"run_id,epoch\nx,1\n"),
        ("curves.csv", b"run_id,epoch,step,split,loss,accuracy,r2\nx,one,1,val,1,1,\n"),
        ("layers.csv", b"run_id,epoch,layer,weight_norm,activation_rms,grad_norm\nx,1\n"),
    ],
)
def test_a_table_that_is_none_is_named(sweep: Path, tmp_path: Path, name: str, content: bytes, capsys: Any) -> None:
    root = copied(sweep, tmp_path / "s")
    (root / name).write_bytes(content)
    assert main(["report", str(root)]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"regrun: {root / name}: ")
    assert not (root / "report.html").exists()


def test_a_kind_of_another_version_is_named(sweep: Path, tmp_path: Path, capsys: Any) -> None:
    root = copied(sweep, tmp_path / "s", summary={"model.kind": "perceiver"})
    assert main(["report", str(root)]) == 3
    assert "model.kind is not one of regrun's, got 'perceiver'" in capsys.readouterr().err


def test_a_report_loads_neither_torch_nor_pandas(sweep: Path, tmp_path: Path) -> None:
    root = copied(sweep, tmp_path / "s")
    code = f"""
import sys
from regrun.cli import main
assert main(["report", {str(root)!r}]) == 0
sys.exit(bool({{"torch", "pandas", "hydra", "matplotlib"}} & set(sys.modules)))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("low", "high", "is_log", "expected"),
    [
        (0, 100, False, ["0", "20", "40", "60", "80", "100"]),
        (0.93, 0.97, False, ["0.93", "0.94", "0.95", "0.96", "0.97"]),
        (-2, 9, False, ["-2", "0", "2", "4", "6", "8"]),
        (0.02, 3, True, ["0.02", "0.05", "0.1", "0.2", "0.5", "1", "2"]),
        (1e-8, 1, True, ["1e-8", "1e-6", "0.0001", "0.01", "1"]),
        (600, 2e5, True, ["1000", "10k", "100k"]),
        (3, 3, False, ["3"]),
    ],
)
def test_ticks_are_round(low: float, high: float, is_log: bool, expected: list[str]) -> None:
    assert [text for _, text in drawing.Scale(low, high, 0, 1, is_log).ticks()] == expected


def test_a_scale_puts_what_lies_outside_at_its_edge() -> None:
    scale = drawing.Scale(1, 100, 10, 30, is_log=True)
    assert [scale(v) for v in (1, 10, 100, 1e9, 0, -5)] == pytest.approx([10, 20, 30, 30, 10, 10])


@pytest.mark.parametrize("cell", ["none", "", None, "nan", "inf", "-inf", "1e999", "<b>", "0x10"])
def test_what_is_no_finite_number_is_none(cell: str | None) -> None:
    assert figures.number(cell) is None


def test_colours_differ_enough_from_their_paper() -> None:
    """WCAG 2.1: 3 to 1 for lines and marks, 4.5 to 1 for text."""
    for palette in (svg.LIGHT, svg.DARK):
        for name in set(palette) - {"paper", "grid"}:
            assert contrast(palette[name], palette["paper"]) >= (4.5 if name in ("ink", "muted", "c0") else 3), name


def contrast(a: str, b: str) -> float:
    """Of two colours, from 1 to 21."""

    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)
