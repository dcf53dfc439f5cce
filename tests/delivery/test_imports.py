"""Staining and measuring import little, so that a node or a server needs few packages."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from adipocyte.delivery.models.package import SERVING_PACKAGES
from adipocyte.domain import FieldKey
from adipocyte.plate.fields import RawField, write_field
from adipocyte.plate.tiff import encode_stack
from tests.support import ROOT, drawn
from tests.support.plates import write_plate

# Rooms that judge, train, prepare or simulate, and the packages that only these need.
OTHER_ROOMS = ("evaluation", "training", "preparation", "store", "simulation")
OTHER_PACKAGES = (
    "albumentations",
    "centrosome",
    "lightning_fabric",
    "matplotlib",
    "ome_zarr",
    "optuna",
    "skimage",
    "zarr",
)

NOT_TO_STAIN = (*(f"adipocyte.{room}" for room in OTHER_ROOMS), *OTHER_PACKAGES)
NOT_TO_MEASURE = (
    *(f"adipocyte.{room}" for room in ("networks", "preparation", "staining", "store", "training")),
    *("adipocyte.delivery.models", "adipocyte.delivery.runs", "adipocyte.simulation"),
    *("fsspec", "matplotlib", "mlflow", "psutil", "ray", "torch", "zarr"),
)

STAIN_A_PLATE = """
from pathlib import Path
from adipocyte.config import StainConfig
from adipocyte.delivery.batch import cluster
from adipocyte.delivery.batch.plate import Here, stain_plate

assert not {"segmentation_models_pytorch", "timm"} & sys.modules.keys()  # before a U-Net is built
plate, model, out = sys.argv[1:]
stained = stain_plate(StainConfig(plate=Path(plate), model=model, out=out), Here())
assert len(stained.painted) == 1, stained
"""
MEASURE_A_FIELD = """
from pathlib import Path
from adipocyte.delivery.batch.measuring import begin_measuring
from adipocyte.delivery.batch.workers import Share

image, out = sys.argv[1:]
key = {"magnification": 20, "well": "B03", "fov": 1}
field = {"key": key, "plate": "plate", "files": {"A1": image}, "um_per_px": 0}
task = {"field": field, "out": out, "labels": True, "made_of": "these"}
(Path(out) / "fields").mkdir()
(Path(out) / "fields" / "cluster").write_text("ours")
measured = begin_measuring({"image": image, "out": out, "claim": "ours"}, Share(1, None))(task)
assert measured == {"problem": None}, measured
"""
SERVE_A_ROW = """
from pathlib import Path
import mlflow
import pandas as pd

stack, model = sys.argv[1:]
row = {"stack": Path(stack).read_bytes(), "magnification": 20}
answer = mlflow.pyfunc.load_model(model).predict(pd.DataFrame([row]), {"on_error": "report"})
assert list(answer["error"]) == [""], answer
"""
LIST_MODULES = """
import json
print("\\n" + json.dumps(sorted(sys.modules)))
"""


def modules_after(script: str, *arguments: Path) -> set[str]:
    """The modules that a fresh process has imported when it has run *script*."""
    process = subprocess.run(
        [sys.executable, "-c", f"import sys\n{script}{LIST_MODULES}", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return set(json.loads(process.stdout.splitlines()[-1]))


def needless(modules: set[str], heads: tuple[str, ...] = NOT_TO_STAIN) -> list[str]:
    """Those of *modules* that lie under *heads*, without which staining does."""
    return sorted(
        module for module in modules if any(f"{module}.".startswith(f"{head}.") for head in heads)
    )


@pytest.mark.slow  # a process that imports PyTorch and MLflow
def test_staining_a_plate_imports_only_what_it_needs(small_model: Path, tmp_path: Path):
    plate = write_plate(tmp_path / "plate", [1])
    modules = modules_after(STAIN_A_PLATE, plate, small_model, tmp_path / "out")
    assert "adipocyte.staining.stainer" in modules
    assert needless(modules) == []


def test_measuring_on_a_node_imports_only_what_it_needs(tmp_path: Path):
    images = drawn.drawn_field(drawn.NUCLEI)
    no_planes = np.empty((0, 0, 0), np.uint16)
    write_field(tmp_path, FieldKey(20, "B03", 1), RawField(no_planes, images))
    [image] = tmp_path.glob("20x_images/*C01.tif")
    modules = modules_after(MEASURE_A_FIELD, image, tmp_path)
    assert "adipocyte.evaluation.cellprofiler.features" in modules
    assert needless(modules, NOT_TO_MEASURE) == []


@pytest.mark.slow  # a process that imports PyTorch and MLflow
def test_a_served_model_imports_only_what_it_needs(small_model: Path, tmp_path: Path):
    counts = np.random.default_rng(0).integers(1000, 3000, (7, 64, 64), dtype=np.uint16)
    stack = tmp_path / "stack.tif"
    stack.write_bytes(encode_stack(counts))
    modules = modules_after(SERVE_A_ROW, stack, small_model)
    assert "adipocyte.staining.stainer" in modules
    assert needless(modules) == []
    installed = {
        package.replace("-", "_").replace("opencv_python_headless", "cv2")
        for package in SERVING_PACKAGES
    }
    only_to_measure = {"centrosome", "scikit_image"}
    assert installed - only_to_measure <= modules


@pytest.mark.parametrize(
    "module", ["adipocyte.store.reader", "adipocyte.evaluation", "matplotlib.figure", "zarr"]
)
def test_the_rule_sees_what_is_needless(module):
    assert needless({"adipocyte.staining.stainer", "json", module}) == [module]
