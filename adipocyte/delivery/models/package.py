"""A bundle packaged as an MLflow model: its signature, its code and the packages it needs."""

import ast
import hashlib
import importlib.metadata
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

import adipocyte
from adipocyte.delivery.serving.parameters import PARAMETERS
from adipocyte.pretrained import BUNDLE, CARD
from adipocyte.staining.bundle import read_manifest

# What a served model imports, without what only training needs; centrosome and scikit-image when a
# request asks to measure. A model is packaged with the versions that it was made and judged with.
SERVING_PACKAGES = (
    "centrosome",
    "imagecodecs",
    "mlflow",
    "numpy",
    "opencv-python-headless",
    "psutil",
    "safetensors",
    "scikit-image",
    "scipy",
    "segmentation-models-pytorch",
    "tifffile",
    "torch",
    "torchvision",
)

PACKAGE = Path(adipocyte.__file__).parent
_SERVED = Path("delivery", "serving", "model.py")  # MLflow runs this file to make the model


def code_digest(package: Path = PACKAGE) -> str:
    """A short name for the code that a served model runs: all that `serving.model` imports."""
    digest = hashlib.sha256()
    for path in served_files(package):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(package)} {content}\n".encode())
    return digest.hexdigest()[:16]


def served_files(package: Path = PACKAGE) -> list[Path]:
    """The files in the folder *package* that serving imports, found by following the imports."""
    found: set[Path] = set()
    pending = [package / _SERVED]
    while pending:
        path = pending.pop()
        if path not in found:
            found.add(path)
            for name in _imported_names(path.read_text()):
                pending += _files_of(name.split("."), package)
    return sorted(found)


@cache
def _imported_names(source: str) -> list[str]:
    """The dotted names that a module of this *source* imports: `from a.b import c` gives "a.b.c".

    A registration asks twice, and parsing the package takes half a second.
    """
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def _files_of(parts: list[str], package: Path) -> Iterator[Path]:
    """The files that importing a dotted name runs, if it is of *package*.

    "a.b.c" is a module, or a name in the module "a.b".
    """
    if parts[0] != PACKAGE.name:
        return
    folder = package
    yield folder / "__init__.py"
    for part in parts[1:]:
        if (folder / f"{part}.py").is_file():
            yield folder / f"{part}.py"
        if not (folder / part).is_dir():
            return
        folder /= part
        yield folder / "__init__.py"


def copy_code(folder: Path) -> Path:
    """Copy the package into *folder*, without the pretrained network; return where it is now."""
    weights = {BUNDLE, CARD}

    def left_out(path: str, names: list[str]) -> set[str]:
        return {name for name in names if name == "__pycache__" or Path(path, name) in weights}

    return Path(shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=left_out))


def as_model(bundle: Path, example: pd.DataFrame, code: Path) -> dict[str, Any]:
    """The arguments of `mlflow.pyfunc.log_model` and `save_model` that make a model of a *bundle*.

    *example* is an example of a request, *code* the package as `copy_code` copies it.
    """
    return {
        "python_model": str(PACKAGE / _SERVED),
        "artifacts": {"bundle": str(bundle)},
        "code_paths": [str(code)],
        "signature": signature(read_manifest(bundle).targets),
        "input_example": example,
        "pip_requirements": requirements(),
    }


def signature(targets: tuple[str, ...]) -> ModelSignature:
    """The columns and parameters of a served model."""
    return ModelSignature(
        inputs=Schema([ColSpec("binary", "stack"), ColSpec("long", "magnification")]),
        outputs=Schema(
            [ColSpec("binary", target) for target in targets] + [ColSpec("string", "warnings")]
        ),
        params=PARAMETERS,
    )


def requirements() -> list[str]:
    """The packages that a served model needs, pinned to the versions installed here."""
    return [
        f"{package}=={importlib.metadata.version(package).split('+')[0]}"
        for package in SERVING_PACKAGES
    ]
