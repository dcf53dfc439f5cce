"""The number of threads of each step is recorded, and a recorded course repeats a training."""

import pytest
import torch

from adipocyte.config import GeneratorConfig, build
from adipocyte.errors import ConfigError
from adipocyte.networks.files import load_network
from adipocyte.training import threads
from adipocyte.training.generator import train_generator
from adipocyte.training.loop import NETWORK_FOLDER
from adipocyte.training.threads import Course, course_of, spelled_course
from tests.support.trainings import Notes

SETTINGS = {
    "target": "A2",
    "recipe": "shared",
    "epochs": 2,
    "epoch_steps": 2,
    "patch_px": 32,
    "batch": 2,
    "workers": 0,
    "precision": "32",
    "save_every": 1,
}


@pytest.fixture(autouse=True)
def same_threads_afterwards():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("text", "course"),
    [("2", [(1, 2)]), ("2,1@1200", [(1, 2), (1200, 1)]), ("1, 2@5,1@6", [(1, 1), (5, 2), (6, 1)])],
)
def test_a_course_goes_both_ways(text, course):
    assert course_of(text) == course
    assert spelled_course([list(change) for change in course]) == text.replace(" ", "")


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "two", "2@5", "2,1", "2,1@5,2@5", "1,2@9,1@3", "1,"]
)
def test_no_course_is_refused(text):
    with pytest.raises(ConfigError, match="threads must be auto, a number, or a course"):
        Course(text, [])


def test_changes_are_told_once_and_kept():
    taken: list[list[int]] = []
    course = Course("2,1@3", taken)
    assert [course.at(step) for step in range(1, 6)] == [2, None, 1, None, None]
    assert taken == [[1, 2], [3, 1]]
    assert torch.get_num_threads() == 1


def test_a_resumed_training_begins_with_the_threads_that_it_had(monkeypatch):
    monkeypatch.setattr(threads.Threads, "adapt", lambda _: torch.get_num_threads())
    torch.set_num_threads(1)
    course = Course("auto", [[1, 1], [7, 2]])
    assert torch.get_num_threads() == 2
    assert course.at(9) is None


@pytest.mark.slow  # trains twice
def test_the_recorded_course_repeats_a_training_bit_for_bit(small_store, tmp_path, monkeypatch):
    machine = iter([2, 2, 1, 2])
    monkeypatch.setattr(
        threads.Threads, "adapt", lambda _: torch.set_num_threads(n := next(machine)) or n
    )
    notes = Notes()
    train_generator(small_store, build(GeneratorConfig, SETTINGS), None, tmp_path / "a", notes)
    taken = [[step, int(row["threads"])] for step, row in notes.rows.items() if "threads" in row]
    assert taken == [[1, 2], [3, 1], [4, 2]]
    again = build(GeneratorConfig, {**SETTINGS, "threads": spelled_course(taken)})
    train_generator(small_store, again, None, tmp_path / "b", Notes())
    first, second = (
        load_network(tmp_path / name / NETWORK_FOLDER)[1].state_dict() for name in "ab"
    )
    for name, weight in first.items():
        torch.testing.assert_close(second[name], weight, rtol=0, atol=0)
