"""True numbers of objects lie between the bounds that are given for painted ones."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from adipocyte.domain import FieldKey
from adipocyte.evaluation.cellprofiler.objects import KINDS
from adipocyte.evaluation.counts import COUNT, from_json, learn_counts, to_json


def fields(n: int, seed: int, magnification: int = 20) -> list:
    """Fields in which seven of ten objects are painted, give or take."""
    random = np.random.default_rng(seed)
    found = []
    for i in range(n):
        painted = {COUNT + table: int(random.integers(20, 200)) for table in KINDS}
        true = {name: round(m / 0.7 * np.exp(random.normal(0, 0.2))) for name, m in painted.items()}
        key = FieldKey(magnification, f"B{i % 5 + 1:02d}", i)
        found.append(SimpleNamespace(key=key, truth_row=true, painted_rows={"none": painted}))
    return found


@pytest.mark.parametrize(("n", "level"), [(16, 15 / 17), (60, 55 / 61)])
def test_new_fields_lie_inside_as_often_as_is_said(n, level):
    shares = []
    for seed in range(40):
        learnt = {one.table: one for one in learn_counts(fields(n, seed), "none")}
        assert learnt["Nuclei"].level == pytest.approx(level)
        for field in fields(40, 1000 + seed):
            painted, true = field.painted_rows["none"], field.truth_row
            for table in KINDS:
                low, high = learnt[table](painted[COUNT + table])
                shares.append(low <= true[COUNT + table] <= high)
    assert np.mean(shares) == pytest.approx(level, abs=0.03)


def test_each_magnification_teaches_its_own_and_too_few_fields_nothing():
    found = learn_counts([*fields(6, 0), *fields(3, 1, magnification=40)], "none")
    assert {one.magnification for one in found} == {20}
    assert {(one.n_fields, one.n_wells) for one in found} == {(6, 5)}
    assert learn_counts(fields(6, 0), "matching") == []


def test_where_nothing_is_painted_there_may_be_some():
    [nuclei, *_] = learn_counts(fields(30, 0), "none")
    low, high = nuclei(0)
    assert low == 0
    assert high >= 1


def test_it_survives_its_file_and_nothing_else_is_read():
    found = learn_counts(fields(6, 0), "none")
    content = json.loads(json.dumps(to_json(found)))
    assert from_json(content) == found
    for wrong in ({"low": 0}, {"low": 9.0, "high": 2.0}, {"level": "high"}):
        with pytest.raises(ValueError, match=r"interval|expected type"):
            from_json([content[0] | wrong])
