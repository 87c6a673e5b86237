"""`regrun study=NAME`: the verdict that the runs give, its exit code, its tables and pages; every shipped study."""

from collections.abc import Iterator
from pathlib import Path

import chromium
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import MNIST_ROOT, Refused, needs_mnist

import regrun
from regrun import foreign
from regrun.cli import main
from regrun.conversion import parsed
from regrun.data.sources import Source
from regrun.settings import Settings, resolve
from regrun.standing import duration
from regrun.studies import computed, design, errata, pages
from regrun.studies.conduct import Done
from regrun.studies.found import Found
from regrun.studies.judge import judge
from regrun.studies.pictures import picture
from regrun.studies.plan import plan
from regrun.studies.words import measured

HEAD = """\
# Whether anything is learned
claim: A network that takes no step learns nothing.
chapter: capacity
lectures: none
paper: none
published: none
"""
DESIGN = """\
setup: [data=digits, model=shallow, model.width=16, optimizer=sgd, trainer.early_stopping.patience=null,
        trainer.epochs=2, trainer.save=last]
arms:
  no step: [optimizer.lr=0]
  steps: ["optimizer.lr=0.3,0.5"]
picture: {figure: test_error, over: optimizer.lr}
"""
LEARNS = """\
checks:
  - {says: steps learn, share: tuned_error < 0.5, of: steps, above: 0.5}
  - {says: the others do not, share: test_error > 0.7, of: no step, above: 0.5}
  - {says: by how much, mean: test_error, of: no step}
"""
EXPECTED = {"reproduced": LEARNS, "not reproduced": LEARNS.replace("< 0.5", "> 0.5"), "inconclusive": LEARNS}


def write(folder: Path, name: str, *, expected: str, checks: str = LEARNS, seeds: int = 4, arms: str = DESIGN) -> None:
    (folder / "study").mkdir(parents=True, exist_ok=True)
    text = f"{HEAD}expected: {expected}\nseeds: {{quick: {seeds}, full: {seeds + 1}}}\n{arms}{checks}"
    (folder / "study" / f"{name}.yaml").write_text(text)


def study(folder: Path, name: str, *words: str) -> int:
    return main([f"study={name}", f"hydra.sweep.dir={folder / 'out'}", "--config-dir", str(folder), *words])


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studies")
    write(folder, "steps", expected="reproduced")
    assert study(folder, "steps", "sweep.workers=1") == 0
    return folder


def test_a_study_leaves_its_verdict_its_checks_and_every_figure(done: Path) -> None:
    (verdict,) = pd.read_csv(done / "out" / "studies.csv").to_dict("records")
    assert (verdict["study"], verdict["verdict"], verdict["expected"]) == ("steps", "reproduced", "reproduced")
    assert (verdict["runs"], verdict["seeds"], verdict["profile"], verdict["diverged"]) == (12, 4, "quick", 0)
    assert verdict["command"] == "regrun study=steps profile=quick"
    checks = pd.read_csv(done / "out" / "checks.csv")
    assert checks.result.tolist() == ["holds", "holds", "shown"] and set(checks.n) == {4}
    figures = pd.read_csv(done / "out" / "figures.csv")
    runs = regrun.read(done / "out" / "runs" / "steps").summary
    untrained = runs[runs["optimizer.lr"] == 0].set_index("seed")
    mine = figures[(figures.arm == "no step") & (figures.figure == "test_error") & (figures.over == "none")]
    assert dict(zip(mine.seed, mine.value, strict=True)) == dict(1 - untrained.test_accuracy_last)
    assert len(figures[figures.over != "none"]) == 12  # what the picture shows


def test_tuned_error_is_read_at_what_val_has_chosen(done: Path) -> None:
    runs = regrun.read(done / "out" / "runs" / "steps").summary
    trained = runs[runs["optimizer.lr"] > 0]
    chosen = trained.loc[trained.groupby("seed").val_accuracy_best.idxmax()].set_index("seed")
    figures = pd.read_csv(done / "out" / "figures.csv")
    mine = figures[figures.figure == "tuned_error"]
    assert dict(zip(mine.seed, mine.value, strict=True)) == dict(1 - chosen.test_accuracy_best)


def test_its_pages_say_what_its_tables_say(done: Path) -> None:
    out = done / "out"
    page, index, html = ((out / name).read_text() for name in ("steps.md", "README.md", "studies.html"))
    for text in (page, html):
        assert "A network that takes no step learns nothing." in text and "REPRODUCED, as expected" in text
    assert "| steps learn | 4 of 4 seeds, 100.00 % [51.01, 100.00] | above 50.00 % | 4 | holds |" in page
    assert "![" in page and "(steps.svg)" in page and (out / "steps.svg").read_text().startswith("<svg ")
    assert "[A network that takes no step learns nothing.](steps.md) | reproduced | reproduced |" in index
    took = duration(pd.read_csv(out / "studies.csv").seconds.item())
    assert f"Studies: 1 (1 reproduced). Runs: 12, in {took}.\n" in index


def test_the_same_command_trains_nothing_again(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And has taken as long as when it did."""
    told = pd.read_csv(done / "out" / "studies.csv").seconds.item()
    before = {path: path.stat().st_mtime_ns for path in (done / "out" / "runs").rglob("*.pt")}
    assert len(before) == 12 and study(done, "steps") == 0
    assert {path: path.stat().st_mtime_ns for path in (done / "out" / "runs").rglob("*.pt")} == before
    assert "12 finished before" in capsys.readouterr().out
    assert pd.read_csv(done / "out" / "studies.csv").seconds.item() == told


def test_another_study_in_the_folder_joins_the_tables(done: Path) -> None:
    write(done, "other", expected="not reproduced", checks=EXPECTED["not reproduced"])
    assert study(done, "other", "sweep.workers=1") == 0
    assert pd.read_csv(done / "out" / "studies.csv").study.tolist() == ["other", "steps"]
    assert "steps.md" in (done / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("expected", "checks", "seeds", "code"),
    [
        ("not reproduced", LEARNS, 4, 6),
        ("reproduced", EXPECTED["not reproduced"], 4, 6),
        ("reproduced", LEARNS, 3, 5),  # three of three seeds are not more than half: Wilson's interval begins at 0.44
        ("inconclusive", LEARNS, 3, 0),
        ("inconclusive", LEARNS, 4, 6),
    ],
)
def test_exit_codes(tmp_path: Path, expected: str, checks: str, seeds: int, code: int) -> None:
    write(tmp_path, "steps", expected=expected, checks=checks, seeds=seeds)
    assert study(tmp_path, "steps", "sweep.workers=1") == code


def test_a_run_that_fails_leaves_no_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Layers of a million units ask for terabytes, which are refused."""
    arms = DESIGN.replace("model.width=16", "'model.widths=[1000000,1000000]'")
    write(tmp_path, "steps", expected="reproduced", arms=arms)
    assert study(tmp_path, "steps", "sweep.workers=1") == 1
    assert "runs have failed, so there is no verdict" in capsys.readouterr().out
    assert not (tmp_path / "out" / "studies.csv").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, refused: Refused) -> None:
    """Its README.md would be written over."""
    write(tmp_path, "steps", expected="reproduced")
    words = ["study=steps", f"hydra.sweep.dir={tmp_path}", "--config-dir", tmp_path]
    assert refused(*words).startswith("hydra.sweep.dir: must be a new or an empty folder")
    assert [path.name for path in tmp_path.iterdir()] == ["study"]


def test_another_profile_takes_another_folder(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert study(done, "steps", "profile=full") == 2
    assert capsys.readouterr().err.startswith("regrun: hydra.sweep.dir: has another plan, got ")


def test_every_run_of_an_arm_is_done_with_each_trial(tmp_path: Path) -> None:
    """A trial may be a grid; of two that are one run, the run is there once."""
    write(
        tmp_path, "tried", expected="reproduced", arms=f"trials: [[], [reg.l2.value=0], ['reg.l2.value=1,2']]\n{DESIGN}"
    )
    own = plan(design.find("tried", tmp_path), "quick", [], tmp_path / "x", {})
    assert {arm: {len(set(ids)) for ids in by.values()} for arm, by in own.arms.items()} == {
        "no step": {3},
        "steps": {6},
    }
    assert len(own.runs) == 4 * 9


def test_full_takes_other_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "steps", expected="reproduced")
    found = design.find("steps", tmp_path)
    quick, full = (plan(found, profile, [], tmp_path / "x", {}).seeds for profile in ("quick", "full"))
    assert (len(quick), len(full)) == (4, 5) and not set(quick) & set(full)
    assert study(tmp_path, "steps", "--dry-run") == 0
    assert capsys.readouterr().out == "steps: 4 seeds, 12 runs; expected: reproduced\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("picture:", "pictures:", "study bad: no such key, got 'pictures'; did you mean picture"),
        ("capacity", "cookery", "study bad: chapter: must be one of capacity, initialization"),
        ("expected: reproduced", "expected: yes please", "study bad: expected: must be one of reproduced"),
        ("tuned_error < 0.5", "tuned_error", "study bad: checks[0]: share: must be like `test_error < 0.3`"),
        ("of: steps", "of: [steps, no step]", "study bad: checks[0]: of: share takes 1 arms"),
        ("of: steps", "of: stepps", "study bad: checks: of: no such arm, got 'stepps'; it has no step, steps"),
        ("tuned_error <", "luck <", "study bad: no such figure, got 'luck'; choose from test_error"),
        ("above: 0.5}", "above: much}", "study bad: checks[0]: above: must be a number, got 'much'"),
        ("share: test", "shore: test", "study bad: checks[1]: must have one of share, mean"),
        ("quick: 4", "quick: few", "study bad: seeds: quick: must be a number of seeds, got 'few'"),
        ("optimizer.lr=0]", "optimizer.lrr=0]", "study bad: optimizer.lrr: no such key; did you mean optimizer.lr"),
        ("picture:", "trials: 3\npicture:", "study bad: trials: must be a list, got 3"),
        ("picture:", "trials: [[optimizer.lrr=1]]\npicture:", "study bad: optimizer.lrr: no such key; did you mean"),
        ("mean: test_error", "median: test_error", "study bad: checks[2]: of: median takes at least 6 arms, got"),
        ("arms:", "arms: &a", None),
        ("picture:", "note: *a\npicture:", "is no YAML file"),
        ("setup: [", "setup: {", "is no YAML file"),
    ],
)
def test_a_mistake_in_a_study_is_a_line(tmp_path: Path, refused: Refused, old: str, new: str, line: str | None) -> None:
    write(tmp_path, "bad", expected="reproduced")
    path = tmp_path / "study" / "bad.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    words = ["study=bad", "--dry-run", "--config-dir", tmp_path]
    if line is None:
        assert main([str(word) for word in words]) == 0
    else:
        assert line in refused(*words)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["study="], "study: no such study, got ''; choose all or one of"),
        (["study=dropout", "profile=fast"], "profile: must be one of quick, full, got 'fast'"),
        (
            ["study=dropout", "trainer.epochs=1"],
            "study: keeps its design, got 'trainer.epochs=1'; it takes profile and",
        ),
        (["study=dropout", "-m"], "study: is a sweep of its own, got -m; leave it out"),
        (["study=dropout", "--cfg", "job"], "study: is a sweep of its own, got --cfg; leave it out"),
        (["study=dropout", "--by", "reg"], "--by: is for"),
    ],
)
def test_a_mistaken_command_is_a_line(refused: Refused, words: list[str], line: str) -> None:
    assert line in refused(*words)


def test_a_misspelt_study_has_no_list_of_all(refused: Refused) -> None:
    assert refused("study=dropuot") == "study: no such study, got 'dropuot'; did you mean dropout"


@pytest.mark.parametrize("path", sorted(Path(design.conf_dir() / "study").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_study_states_what_must_be_seen(path: Path) -> None:
    found = design.read(path)
    assert found.about and found.claim.endswith(".") and found.seeds["full"] >= 10
    assert any(check.decides for check in found.checks)
    assert all(line == line.rstrip() and len(line) <= 120 for line in path.read_text().splitlines())


def test_the_course_has_every_study_in_its_chapter() -> None:
    course = yaml.safe_load((design.conf_dir() / "course.yaml").read_text())
    assert [(study.chapter, study.name) for study in design.every()] == [(c, n) for c in course for n in course[c]]
    assert tuple(course) == design.CHAPTERS


def test_what_the_errata_name_is_there() -> None:
    disagreements, slips = errata.read()
    for own in disagreements:
        assert own.answer.endswith(".") and all(1 <= lecture <= 5 for lecture, _ in own.sentences)
        for name, places in own.checks.items():
            assert places and max(places) < len(design.find(name).checks)
    for slip in slips:
        for file, _, test in (shown.partition("::") for shown in slip.shown):
            if test:
                assert f"def {test}(" in (Path("tests") / file).read_text()
            else:
                assert file in design.names()


@pytest.mark.parametrize("threads", [1, 2])
def test_what_is_computed_has_one_thread_whatever_the_process_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """By the first study of a process and by one that comes after a sweep, which sets it to one."""

    def seen(run: Settings, source: Source, seed: int, is_quick: bool) -> Iterator[Found]:
        yield Found("all", "threads", torch.get_num_threads())

    monkeypatch.setitem(computed.COMPUTED, "seen", seen)
    checks = "checks:\n  - {says: one, each: threads, of: all, above: 0.5, below: 1.5}\n"
    write(
        tmp_path, "alone", expected="reproduced", arms="setup: [data=digits]\narms: {}\ncompute: seen\n", checks=checks
    )
    torch.set_num_threads(threads)  # conftest sets it back
    assert study(tmp_path, "alone") == 0


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "mean: steps",
            "mean: stepps",
            "study own: checks: nobody measures stepps of round, plain; computed: steps of",
        ),
        ("round, plain", "round", "study own: checks: nobody measures steps of round; computed: steps of"),
        (
            "figure: log10_distance",
            "figure: distance",
            "study own: picture: figure: must be one of log10_distance, got",
        ),
        (
            "over: step",
            "title: x",
            "study own: picture: figure: must be one of steps, left_share, got 'log10_distance'",
        ),
    ],
)
def test_what_nobody_computes_is_told_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, line: str
) -> None:
    arms = "setup: [data=digits]\narms: {}\ncompute: momentum\npicture: {figure: log10_distance, over: step}\n"
    checks = 'checks:\n  - {says: one, mean: steps, of: "round, plain", above: 0}\n'
    write(tmp_path, "own", expected="reproduced", arms=arms.replace(old, new), checks=checks.replace(old, new))
    assert study(tmp_path, "own") == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"regrun: {line}") and len(errors.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def verdict_of(name: str) -> Done:
    """As the repository tells it."""
    tables = [
        [parsed(cls, row) for row in foreign.rows(Path("outputs/studies") / file) if row["study"] == name]
        for file, cls in pages.TABLES.items()
    ]
    return Done(design.find(name), tables[0][0], tables[1], tables[2])


def test_a_picture_over_a_setting_has_no_arm_of_one_point() -> None:
    own = verdict_of("capacity")
    drawing = picture(own.study, own.figures)
    assert drawing is not None and "all widths" in drawing.description and "width 16" not in drawing.description


def test_a_picture_has_its_arms_in_the_order_of_the_study() -> None:
    """Whatever the order in which checks ask for them."""
    own = verdict_of("selection_optimism")
    drawing = picture(own.study, own.figures[::-1])
    assert drawing is not None
    places = [drawing.description.index(f" {arm}:") for arm in own.study.arms]
    assert places == sorted(places)


def test_errata_show_what_their_studies_measured() -> None:
    """Only those whose studies are all there; without any, no page."""
    found = [verdict_of(name) for name in ("dropout", "dropout_rate")]
    own = list(errata.sections(found, str))
    disagreements, slips = errata.read()
    told = [d for d in disagreements if d.checks.keys() <= {"dropout", "dropout_rate"}]
    assert [section.title for section in own[:-1]] == [d.question for d in told] and len(told) > 1
    assert len(own[-1].tables[0].rows) == len(slips)
    assert list(errata.sections([], str)) == []


@needs_mnist
@pytest.mark.long
def test_every_study_is_planned(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study=all", "--dry-run", f"data.root={MNIST_ROOT}"]) == 0
    first, *planned = capsys.readouterr().out.splitlines()
    assert first == f"{len(design.names())} studies; every run of all of them is checked first"
    assert [line.partition(":")[0] for line in planned] == design.names()


@pytest.mark.parametrize("width", [20, 50, 55, 100, 300])
def test_least_squares_has_the_smallest_norm(width: int) -> None:
    """Against numpy's lstsq, narrower and wider than the 50 examples; ridge against its normal equations."""
    g = np.random.default_rng(0)
    a, y = g.normal(size=(50, width)), g.normal(size=(50, 3))
    solve = computed.least_squares(a)
    assert solve(y, 0.0) == pytest.approx(np.linalg.lstsq(a, y, rcond=None)[0], abs=1e-9)
    assert solve(y, 2.0) == pytest.approx(np.linalg.solve(a.T @ a + 2 * np.eye(width), a.T @ y), abs=1e-9)


def test_decay_without_a_gradient_has_its_closed_form(digits: Source) -> None:
    found = {f.arm: f.value for f in computed.decay_alone(resolve(Settings()), digits, 0, True)}
    assert found["decoupled decay"] < 1e-5
    assert found["adam with l2 of 0.0001"] == pytest.approx(1, abs=1e-3)
    assert found["adam with l2 of 0.01"] == pytest.approx(1, abs=1e-3)


def test_masks_before_a_nonlinearity_are_no_scaling(digits: Source) -> None:
    found = {f.arm: f.value for f in computed.subnetworks(resolve(Settings()), digits, 3, True)}
    assert max(found["softmax regression"], found["mlp, last hidden layer"]) < 1e-12 < 0.1 < found["mlp, inputs"]


@pytest.mark.skipif(chromium.PROGRAM is None, reason="chromium is not installed")
def test_a_browser_shows_the_page(done: Path, tmp_path: Path) -> None:
    """Nothing is complained about, asked for, or wider than the window; nor of the repository's."""
    browser = chromium.Chromium(tmp_path)
    for page in (done / "out" / "studies.html", Path("outputs/studies/studies.html").resolve()):
        for width in (400, 1400):
            browser.open(page, width=width)
            assert browser.value("document.documentElement.scrollWidth") <= width
            assert browser.misplaced() == []
    assert browser.errors == []
    browser.close()


def test_the_verdicts_of_the_repository_are_those_of_its_studies() -> None:
    """Every study has its verdict in full, and what its tables say still follows from its figures."""
    folder = Path("outputs/studies")
    told = pd.read_csv(folder / "studies.csv").set_index("study")
    assert told.index.tolist() == design.names() and set(told.profile) == {"full"}
    figures = pd.read_csv(folder / "figures.csv")
    for name in design.names():
        own = figures[(figures.study == name) & (figures.over == "none")]
        table: dict[tuple[str, str], dict[int, float]] = {}
        for row in own.itertuples():
            table.setdefault((str(row.arm), str(row.figure)), {})[int(row.seed)] = float(row.value)
        verdict, checks = judge(name, design.find(name).checks, table)
        assert verdict == told.verdict[name] and told.effect[name] == f"{checks[0].says}: {measured(checks[0])}"
        assert (folder / f"{name}.md").read_text().startswith(f"# {design.find(name).claim}\n")
