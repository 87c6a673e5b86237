"""The shape of the package: imports point down, torch loads late, one module writes."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import regrun

PACKAGE = Path(regrun.__file__).parent
LAYERS = [
    "errors paths revision disk signals due settings.fields demos demos.shown",
    "demos.approximation demos.depth demos.descent demos.dropout demos.shrinkage demos.symmetry demos.variance",
    "settings.data settings.model settings.optimizer settings.reg settings.scheduler settings.trainer launchers",
    "settings",
    "parallel",
    "apart layers initializers augment averaging schedules metrics mixing pixels policies stopping "
    "across stats streams objective meter rows records ensembling components",
    "findings locks foreign predictions tensors",
    "limits",
    "checks config configs conversion demos.catalogue dictionary grouping help overrides space",
    "data data.arrays data.augmentation data.batches data.cifar data.csv_file data.download data.image_folder "
    "data.matlab data.order data.source data.sources data.split data.stream data.tables data.windows "
    "models models.attention models.build models.dropping models.export models.mixture models.norms models.ops "
    "models.parameters models.rates models.vision "
    "optim",
    "stack measure looks progress epoch state closing ending trainer audit",
    "display plots plan prepare reading",
    "gridview",
    "checkpoints collect trackers trackers.mlflow trackers.tensorboard trackers.wandb tracking",
    "pairing",
    "levels",
    "paired",
    "best budget overall",
    "saving writing ledger compare effects effectsview ensemble replay gate pruning asktell",
    "report report.figures report.drawing report.axes report.charts report.svg report.png report.folder report.factors "
    "report.tables report.sections report.page report.terminal report.write",
    "run standing sweepview ensembleview compareview replayview gateview keeping variance confirm",
    "auditview",
    "engines engines.tasks engines.work driver stacking begun",
    "engines.local engines.plugin engines.ray engines.slurm",
    "engines.choice batches search",
    "sweep",
    "studies studies.design studies.judge studies.words studies.pictures studies.runs studies.found studies.trends "
    "studies.cocktails studies.histories studies.depths studies.quadratics studies.paths studies.shards "
    "studies.watched studies.drift studies.landscape studies.kinks studies.steps studies.sparse studies.tradeoff "
    "studies.equivalents studies.probes studies.units studies.figures studies.computed studies.plan studies.conduct "
    "studies.errata studies.pages "
    "studies.command",
    "verbs",
    "cli __main__",
]
LAYER = {f"regrun.{name}": number for number, names in enumerate(LAYERS) for name in names.split()}
MODULES = {
    ".".join(["regrun", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
BELOW = sorted(set(MODULES) - {"regrun"})
TORCH_FREE = (
    "cli verbs config conversion settings launchers checks grouping disk signals due records locks rows findings "
    "dictionary help plots display errors paths "
    "plan collect effects overrides standing sweepview effectsview demos.catalogue space apart "
    "predictions ensembling ensemble ensembleview tracking trackers.wandb parallel "
    "foreign stats across pairing levels paired best budget overall compare compareview ledger components variance "
    "confirm "
    "report.write report.sections report.page report.terminal report.svg report.png "
    "stopping replay replayview limits gate gateview "
    "studies.design studies.judge studies.words studies.pictures"
)
WRITING_METHODS = (
    "chmod hardlink_to makedirs mkdir mkdtemp mkstemp NamedTemporaryFile remove rename rmdir rmtree symlink_to "
    "touch truncate unlink write_bytes write_text to_csv tofile"
)


def imports(nodes: Iterator[ast.AST]) -> set[str]:
    """The package's modules that are imported. A name that is no module belongs to the module it comes from."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return {name for name in found if name.split(".")[0] == "regrun"}


def test_every_module_has_a_layer() -> None:
    assert set(LAYER) == set(BELOW)


@pytest.mark.parametrize("name", BELOW)
def test_imports_point_down_or_sideways(name: str) -> None:
    """Imports inside functions too. `regrun` itself is below all: it imports nothing when it is imported."""
    assert {i for i in imports(ast.walk(TREES[name])) - {"regrun"} if LAYER[i] > LAYER[name]} == set()


def test_imports_have_no_cycle() -> None:
    graph = {name: imports(ast.walk(TREES[name])) - {"regrun"} for name in BELOW}
    assert set(TopologicalSorter(graph).static_order()) == set(BELOW)


def test_the_package_itself_imports_only_inside_functions() -> None:
    assert imports(iter(TREES["regrun"].body)) == set()


def test_torch_is_loaded_late() -> None:
    names = ", ".join(f"regrun.{name}" for name in TORCH_FREE.split())
    subprocess.run([sys.executable, "-c", f"import sys, {names}; sys.exit('torch' in sys.modules)"], check=True)


def writes(tree: ast.Module) -> list[str]:
    """The calls that may change a file: what opens for writing, makes, moves, removes, or saves not into memory."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    memory = {
        ast.unparse(target)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.value) in ("io.BytesIO()", "io.StringIO()")
        for target in node.targets
    }
    return [ast.unparse(call) for call in calls if _writes(call, memory)]


def _writes(call: ast.Call, memory: set[str]) -> bool:
    callee = ast.unparse(call.func)
    name = callee.rpartition(".")[2]
    arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
    if callee == "os.open":
        return ast.unparse(call.args[0]) != "os.devnull"
    if name in ("open", "fdopen"):
        words = [a.value for a in arguments if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        return any(set(word) <= set("rwaxbt+") and set(word) & set("wax+") for word in words)
    if callee in ("torch.save", "np.save", "np.savez") or name == "savefig":
        return not memory & {ast.unparse(a) for a in arguments}
    if name == "replace":  # a path's has one argument, os's has two; a string's and a dataclass's are others
        return callee == "os.replace" or (len(call.args) == 1 and not call.keywords)
    return name in WRITING_METHODS.split()


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"regrun.disk"}))
def test_nothing_but_disk_changes_files(name: str) -> None:
    assert writes(TREES[name]) == []


@pytest.mark.parametrize(
    "code",
    [
        "open(p, 'w')",
        "open(p, mode='ab')",
        "p.open('x')",
        "p.open('r+')",
        "p.write_text(t)",
        "p.mkdir(parents=True)",
        "os.replace(a, b)",
        "a.replace(b)",
        "p.unlink()",
        "os.open(p, os.O_WRONLY)",
        "torch.save(t, p)",
    ],
)
def test_the_search_for_writes_finds(code: str) -> None:
    assert writes(ast.parse(code)) == [code]


@pytest.mark.parametrize(
    "code",
    [
        "open(p)",
        "p.open('rb')",
        "gzip.open('data.gz')",
        "t.replace('a', 'b')",
        "replace(x, lr=1)",
        "os.open(os.devnull, os.O_WRONLY)",
        "b = io.BytesIO()\ntorch.save(t, b)",
    ],
)
def test_the_search_for_writes_lets_pass(code: str) -> None:
    assert writes(ast.parse(code)) == []


def test_disk_is_where_files_are_changed() -> None:
    assert writes(TREES["regrun.disk"])


def test_nothing_but_records_and_locks_use_disk() -> None:
    users = {name for name in BELOW if "regrun.disk" in imports(ast.walk(TREES[name]))}
    assert users == {"regrun.records", "regrun.locks"}
