"""A bundle packaged as an MLflow model: its signature, its code and what it needs installed."""

import ast
import hashlib
import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

import adipocyte
from adipocyte.delivery.serving.parameters import PARAMETERS
from adipocyte.staining.bundle import read_manifest

# What a served model imports, without what only training needs. The versions are those it was made and judged with.
SERVING_PACKAGES = (
    "imagecodecs",
    "mlflow",
    "numpy",
    "opencv-python-headless",
    "psutil",
    "safetensors",
    "scipy",
    "segmentation-models-pytorch",
    "tifffile",
    "torch",
    "torchvision",
)


PACKAGE = Path(adipocyte.__file__).parent
_SERVED = PACKAGE / "delivery" / "serving" / "model.py"  # MLflow runs this file to make the model


def code_digest() -> str:
    """A short name for the code that a served model runs: every module that `serving.model` imports."""
    digest = hashlib.sha256()
    for path in served_files():
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(PACKAGE)} {content}\n".encode())
    return digest.hexdigest()[:16]


def served_files() -> list[Path]:
    """The files of this package that serving a model imports, found by following the imports."""
    found: set[Path] = set()
    pending = [_SERVED]
    while pending:
        path = pending.pop()
        if path not in found:
            found.add(path)
            pending += _imported_files(path)
    return sorted(found)


def _imported_files(path: Path) -> Iterator[Path]:
    """The files of this package that the module at *path* imports, and those of their packages."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield from _files_of(name.split("."))


def _files_of(parts: list[str]) -> Iterator[Path]:
    """The files that importing the dotted name *parts* runs, "a.b.c" being a module or a name in one."""
    if parts[0] != PACKAGE.name:
        return
    folder = PACKAGE
    yield folder / "__init__.py"
    for part in parts[1:]:
        if (folder / part).is_dir():
            folder /= part
            yield folder / "__init__.py"
        elif (folder / f"{part}.py").is_file():
            yield folder / f"{part}.py"
            return
        else:
            return


def as_model(bundle: Path, example: pd.DataFrame) -> dict[str, Any]:
    """What `mlflow.pyfunc.log_model` and `save_model` take to make a model of a *bundle*, with an *example* of a request."""
    return {
        "python_model": str(_SERVED),
        "artifacts": {"bundle": str(bundle)},
        "code_paths": [str(PACKAGE)],
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
    """What a served model needs installed, pinned to what is installed here."""
    return [
        f"{package}=={importlib.metadata.version(package).split('+')[0]}"
        for package in SERVING_PACKAGES
    ]
