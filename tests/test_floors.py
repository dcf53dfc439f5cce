"""The house has floors: a module imports only from below its own, or from its own folder."""

import ast
from collections.abc import Iterator

import pytest

from tests.support import ROOT

MODULES = sorted([*(ROOT / "adipocyte").rglob("*.py"), *(ROOT / "entrypoints").rglob("*.py")])
GROUND = "ground"  # errors, domain, config and the package's own __init__
FLOORS = {
    GROUND: 0,
    "system": 1,
    **dict.fromkeys(("plate", "imaging", "simulation", "pretrained"), 2),
    **dict.fromkeys(("client", "store", "networks"), 3),
    **dict.fromkeys(("preparation", "training", "staining"), 4),
    "evaluation": 5,
    "measuring": 6,
    "delivery": 7,
    "entrypoints": 8,
}
WITHOUT_MLFLOW = ("networks", "training", "evaluation", "measuring")
UNSAFE = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "torch.load")


def imported(tree: ast.Module, module: str) -> Iterator[str]:
    """The dotted names that a *module* imports: `from a.b import c` gives "a.b.c"."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = module.split(".")[: -node.level] if node.level else []
            yield from (
                ".".join([*parent, *(node.module or "").split("."), alias.name])
                for alias in node.names
            )


def folder_of(name: str) -> str | None:
    """The folder that a dotted name lies in, None where it is not ours."""
    package, *rest = name.split(".")
    if package == "entrypoints":
        return package
    return (rest[0] if rest and rest[0] in FLOORS else GROUND) if package == "adipocyte" else None


def breaches(source: str, module: str) -> list[str]:
    """What the *source* of a *module*, by its dotted name, imports against the rule."""
    tree, home = ast.parse(source), folder_of(module)
    names = list(imported(tree, module))
    wrong = [
        name
        for name in names
        if (folder := folder_of(name)) and folder != home and FLOORS[folder] >= FLOORS[home]
    ]
    if home in WITHOUT_MLFLOW:
        wrong += [name for name in names if name.split(".")[0] == "mlflow"]
    called = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return wrong + [
        name for name in (*names, *called) if name in UNSAFE or name.split(".")[0] in UNSAFE
    ]


def test_every_module_stands_on_a_floor():
    folders = {path.parent.name for path in MODULES if path.parent.parent.name == "adipocyte"}
    assert folders == FLOORS.keys() - {GROUND, "client", "entrypoints"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_below_or_from_its_own_folder(path):
    assert breaches(path.read_text(), ".".join(path.relative_to(ROOT).with_suffix("").parts)) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("adipocyte.plate.fields", "from adipocyte.imaging.masks import nuclei_mask"),
        ("adipocyte.plate.fields", "def read():\n    import adipocyte.store.reader"),
        ("adipocyte.training.generator", "from adipocyte import staining"),
        ("adipocyte.store.reader", "from ..networks import unet"),
        ("adipocyte.config", "from adipocyte.plate.names import parse_name"),
        ("adipocyte.delivery.batch.plate", "from entrypoints.command import command"),
        ("adipocyte.training.segmenter", "import mlflow.tracking"),
        ("adipocyte.staining.bundle", "import pickle"),
        ("adipocyte.staining.bundle", "from torch import load"),
        ("adipocyte.staining.bundle", "import torch\nweights = torch.load('weights.pt')"),
    ],
)
def test_the_rule_sees_a_breach(module, source):
    assert len(breaches(source, module)) == 1


def test_the_rule_lets_pass_what_is_below_or_beside():
    source = (
        "import mlflow\nfrom adipocyte import __version__\n"
        "from adipocyte.delivery.batch import plate\nfrom . import load\n"
    )
    assert breaches(source, "adipocyte.delivery.models.package") == []
