"""MLproject, conda.yaml, pyproject.toml and the code say the same."""

import dataclasses
import importlib.metadata
import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from setuptools import find_packages

from adipocyte import config
from adipocyte.delivery.models.package import SERVING_PACKAGES, requirements
from tests.support import ROOT

CONFIGS = {
    "main": config.MainConfig,
    "preprocess": config.PreprocessConfig,
    "train_segmenter": config.SegmenterConfig,
    "train_gan": config.GeneratorConfig,
    "tune": config.TuneConfig,
    "evaluate": config.EvaluateConfig,
    "register": config.RegisterConfig,
    "stain": config.StainConfig,
    "measure": config.MeasureConfig,
    "relocate": config.RelocateConfig,
    "simulate": config.SimulateConfig,
    "demo": config.DemoConfig,
    "demo_app": config.DemoAppConfig,
}
ENTRY_POINTS = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]


def pins() -> dict[str, str]:
    """conda.yaml's packages and exact versions."""
    packages = yaml.safe_load((ROOT / "conda.yaml").read_text())["dependencies"][-1]["pip"]
    return dict(package.split("==") for package in packages)


def ranges() -> dict[str, Requirement]:
    """pyproject.toml's packages and their ranges, those of its extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = sum(project["optional-dependencies"].values(), project["dependencies"])
    return {requirement.name: requirement for requirement in map(Requirement, listed)}


def test_every_entry_point_has_a_file_and_every_file_an_entry_point():
    files = {path.stem for path in (ROOT / "entrypoints").glob("*.py")} - {"__init__", "command"}
    assert files == set(ENTRY_POINTS) == set(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_mlproject_declares_the_defaults_of_the_code(name):
    defaults = {field.name: field.default for field in dataclasses.fields(CONFIGS[name])}
    for parameter, declared in ENTRY_POINTS[name]["parameters"].items():
        expected = (
            {"type": "string"}
            if defaults[parameter] is dataclasses.MISSING
            else {"type": "string", "default": config.spelled(defaults[parameter])}
        )
        assert declared == expected, parameter


@pytest.mark.parametrize("name", CONFIGS)
def test_mlproject_passes_on_every_parameter_that_it_declares(name):
    parameters, command = ENTRY_POINTS[name]["parameters"], ENTRY_POINTS[name]["command"]
    assert command.startswith(f"python -m entrypoints.{name} ")
    assert re.findall(r"--(\w+) \{(\w+)\}", command) == [
        (parameter, parameter) for parameter in parameters
    ]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_required_setting_is_declared(name):
    required = {
        field.name
        for field in dataclasses.fields(CONFIGS[name])
        if field.default is dataclasses.MISSING
    }
    assert required <= set(ENTRY_POINTS[name]["parameters"])


def test_conda_and_pyproject_name_the_same_packages():
    assert set(pins()) == set(ranges())


def test_every_pin_lies_in_its_range():
    for package, version in pins().items():
        assert ranges()[package].specifier.contains(version), package


def test_the_environment_is_the_pinned_one():
    for package, version in pins().items():
        assert importlib.metadata.version(package).split("+")[0] == version, package


def test_the_registered_model_requires_the_pinned_versions():
    assert requirements() == [f"{package}=={pins()[package]}" for package in SERVING_PACKAGES]


def test_the_wheel_installs_one_package_which_is_typed():
    """The entry points run from the project; another project on PyPI is called entrypoints."""
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = find_packages(str(ROOT), **setup["packages"]["find"])
    assert {package.partition(".")[0] for package in found} == {"adipocyte"}
    folders = {path.parent for path in (ROOT / "adipocyte").rglob("*.py")}
    assert set(found) == {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    for package, files in setup["package-data"].items():
        assert all((ROOT.joinpath(*package.split(".")) / file).is_file() for file in files)
    assert "py.typed" in setup["package-data"]["adipocyte"]


def test_the_readme_names_every_entry_point_and_no_other():
    readme = (ROOT / "README.md").read_text()
    table = readme.partition("| `mlflow run . -e …` |")[2].partition("\n\n")[0]
    listed = re.findall(r"`(\w+)`", " ".join(row.split("|")[1] for row in table.splitlines()[2:]))
    assert sorted(listed) == sorted(ENTRY_POINTS)
    assert set(re.findall(r"mlflow run \. -e (\w+)", readme)) <= set(listed)
