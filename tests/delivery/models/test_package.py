"""The code that a model is made of: found by following what serving imports."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from adipocyte.delivery.models.package import PACKAGE, code_digest, served_files
from tests.support import ROOT

LOADED = """
import json, sys
import {module}
ours = [module for name, module in sys.modules.items() if name.partition(".")[0] == "adipocyte"]
print(json.dumps([module.__file__ for module in ours]))
"""


def loaded(module: str) -> set[Path]:
    """The files of the package that importing *module* loads in a fresh process."""
    code = LOADED.format(module=module)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return {Path(path) for path in json.loads(done.stdout.splitlines()[-1])}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package that a test may change."""
    return shutil.copytree(PACKAGE, tmp_path / "adipocyte", ignore=shutil.ignore_patterns("*.pyc"))


def test_the_served_files_are_those_that_serving_loads():
    found = set(served_files())
    assert loaded("adipocyte.delivery.serving.model") <= found
    of_judging = {path for path in found if path.relative_to(PACKAGE).parts[0] == "evaluation"}
    measuring = PACKAGE / "evaluation" / "cellprofiler"
    assert of_judging == {PACKAGE / "evaluation" / "__init__.py", *measuring.glob("*.py")}
    rooms = {path.relative_to(PACKAGE).parts[0] for path in found}
    assert not rooms & {"measuring", "preparation", "simulation", "store", "training"}


def test_the_same_code_has_one_digest_wherever_it_lies(package):
    assert code_digest(package) == code_digest()
    (package / "staining" / "__pycache__").mkdir(exist_ok=True)
    (package / "staining" / "__pycache__" / "stainer.pyc").write_bytes(b"compiled")
    assert code_digest(package) == code_digest()


@pytest.mark.parametrize(
    "file",
    [
        "evaluation/report/page.css",
        "evaluation/metric.py",
        "delivery/models/register.py",
        "training/loop.py",
    ],
)
def test_code_that_serving_does_not_run_leaves_the_digest(package, file):
    path = package / file
    path.write_text(path.read_text().replace(",", ", ", 1) + "\n")
    assert code_digest(package) == code_digest()


@pytest.mark.parametrize(
    "file",
    [
        "staining/stainer.py",
        "networks/unet.py",
        "delivery/serving/model.py",
        "delivery/serving/parameters.py",
        "evaluation/cellprofiler/filters.py",
        "imaging/__init__.py",
        "domain.py",
    ],
)
def test_code_that_serving_runs_changes_the_digest(package, file):
    path = package / file
    path.write_text(path.read_text() + "\n")
    assert code_digest(package) != code_digest()


def test_a_module_that_is_imported_inside_a_function_counts(package):
    before = code_digest(package)
    (package / "staining" / "late.py").write_text("HERE = 1\n")
    assert code_digest(package) == before
    stainer = package / "staining" / "stainer.py"
    late = "\n\ndef late():\n    from adipocyte.staining.late import HERE\n"
    stainer.write_text(stainer.read_text() + late)
    changed = code_digest(package)
    (package / "staining" / "late.py").write_text("HERE = 2\n")
    assert len({before, changed, code_digest(package)}) == 3


def test_loading_a_model_loads_nothing_of_judging_training_stores_or_simulation():
    rooms = {
        path.relative_to(PACKAGE).parts[0] for path in loaded("adipocyte.delivery.models.load")
    }
    assert not rooms & {"evaluation", "preparation", "simulation", "store", "training"}
