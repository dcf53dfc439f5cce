"""What `main` trains, how its other steps are told of it, where they start; the demo's wells."""

import pytest
from mlflow.projects.utils import fetch_and_validate_project

from adipocyte.config import MODEL_NAME, listed
from adipocyte.errors import ConfigError
from entrypoints import demo, main


@pytest.mark.parametrize(
    ("recipe", "trained", "runs"),
    [
        ("shared", ["A1,A2,A3"], {"a1": "run 0", "a2": "run 0", "a3": "run 0"}),
        (
            "fast",
            ["", "A1", "A2", "A3"],
            {"segmenter": "run 0", "a1": "run 1", "a2": "run 2", "a3": "run 3"},
        ),
    ],
)
def test_one_network_is_trained_for_all_stains_or_one_for_each(
    small_store, monkeypatch, recipe, trained, runs
):
    asked = []

    def train(parent, store, step, settings):
        assert step == ("train_gan" if "target" in settings else "train_segmenter")
        asked.append(settings)
        return f"run {len(asked) - 1}"

    monkeypatch.setattr(main, "train", train)
    settings = {"recipe": recipe, "name": MODEL_NAME, "epochs": 3}
    assert main.train_all("parent", small_store, settings) == runs
    assert [given.get("target", "") for given in asked] == trained
    assert all(given["epochs"] == 3 and given["recipe"] == recipe for given in asked)
    of_a1 = next(given for given in asked if "A1" in given.get("target", ""))
    assert of_a1.get("segmenter") == runs.get("segmenter")


def test_steps_start_in_a_project_whose_path_has_a_hash(tmp_path, monkeypatch):
    """The challenge's own plates have one in their names."""
    project = tmp_path / "AssayPlate_Greiner_#655090" / "adipocyte"
    (project / "entrypoints").mkdir(parents=True)
    (project / "MLproject").write_text("name: adipocyte\nentry_points: {main: {command: 'true'}}")
    monkeypatch.setattr(main, "__file__", str(project / "entrypoints" / "main.py"))
    monkeypatch.chdir(project)
    assert fetch_and_validate_project(main.project_uri(), None, "main", {}) == str(project)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"has a #: start the command there: cd '.*#655090/adip"):
        main.project_uri()


def test_as_many_wells_judge_the_demo_as_train_it_and_none_does_both():
    wells = listed(demo.WELLS)
    validation, test = (listed(demo.SPLIT[f"{part}_wells"]) for part in ("validation", "test"))
    assert {*validation, *test} < set(wells)
    assert not set(validation) & set(test)
    assert len(set(wells) - {*validation, *test}) == len(test) == 5
