"""A state of any content is refused, and what is no regular file is never opened."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from adipocyte.errors import BundleError
from adipocyte.training.state import STATE, load_state, state_step

GOOD = {
    "step": 3,
    "epoch": 1,
    "best": {"score": 1.0},
    "best_score": 1.0,
    "stale_epochs": 0,
    "totals": {"train_loss": [1.5, 3]},
}


@pytest.mark.parametrize(
    "header",
    [
        None,
        "[" * 100_000,
        "[]",
        json.dumps(GOOD | {"step": "3"}),
        json.dumps(GOOD | {"best": []}),
        json.dumps(GOOD | {"totals": {"train_loss": [1]}}),
        json.dumps({"step": 3}),
    ],
    ids=["none", "deep", "a list", "text", "no object", "one number", "little"],
)
def test_a_header_of_another_form_is_refused(tmp_path, header):
    save_file({"a": torch.zeros(1)}, tmp_path / STATE, {"progress": header} if header else None)
    with pytest.raises(BundleError, match="cannot be loaded"):
        load_state(tmp_path, {})
    assert state_step(tmp_path / STATE) == -1


def test_the_header_that_save_state_writes_is_read(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / STATE, {"progress": json.dumps(GOOD)})
    assert load_state(tmp_path, {}).totals == {"train_loss": [1.5, 3]}
    assert state_step(tmp_path / STATE) == 3


def test_a_state_that_is_a_fifo_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / STATE)
    with pytest.raises(BundleError, match="it is a FIFO"):
        load_state(tmp_path, {})
    assert state_step(tmp_path / STATE) == -1
