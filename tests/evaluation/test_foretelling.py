"""A bundle and a store teach what foretells the errors of what the bundle paints."""

import pytest

from adipocyte.evaluation.foretelling import learn_foretellers
from adipocyte.staining.stainer import Stainer

pytestmark = pytest.mark.slow  # paints many times
N_PARTS = 16


def test_fields_of_two_wells_teach_and_the_same_seed_teaches_the_same(compact_bundle, small_store):
    stainer = Stainer(compact_bundle)
    keys = [key for key in small_store.keys("train") if key.magnification == 20]
    [found] = learn_foretellers(stainer, small_store, keys, 0, N_PARTS)
    assert (found.magnification, found.n_parts, found.n_wells) == (20, N_PARTS, 2)
    assert set(found.usual) == {"A1", "A2", "A3"}
    assert found.doubted <= found.refused
    assert learn_foretellers(stainer, small_store, keys, 0, N_PARTS) == [found]
    assert learn_foretellers(stainer, small_store, keys, 1, N_PARTS) != [found]


def test_one_well_teaches_nothing(compact_bundle, small_store):
    keys = small_store.keys("validation")
    assert learn_foretellers(Stainer(compact_bundle), small_store, keys, 0, N_PARTS) == []
