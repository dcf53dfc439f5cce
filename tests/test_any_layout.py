"""A plate is prepared, trained on, judged and painted alike, whatever instrument wrote it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adipocyte.config import StainConfig
from adipocyte.delivery.batch.plate import Here, stain_plate
from adipocyte.domain import FieldKey
from adipocyte.plate.fields import RawField, write_field
from adipocyte.plate.planes import read_image
from adipocyte.simulation import simulate_field
from adipocyte.store.reader import Store
from tests.support.layouts import SETTINGS, WRITERS
from tests.support.plates import SHAPE_PX
from tests.support.stores import prepared

KEYS = [FieldKey(20, well, fov) for well in ("B03", "B04", "C02") for fov in (1, 2)]


@pytest.fixture(scope="module")
def fields() -> dict[FieldKey, RawField]:
    made = (simulate_field(20, SHAPE_PX, seed=seed) for seed in range(len(KEYS)))
    return {
        key: RawField(field.planes, field.targets) for key, field in zip(KEYS, made, strict=True)
    }


@pytest.fixture(scope="module")
def usual(fields, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plate in the challenge's layout."""
    folder = tmp_path_factory.mktemp("usual") / "plate"
    for key, field in fields.items():
        write_field(folder, key, field)
    return folder


@pytest.fixture(scope="module")
def store(usual: Path) -> Store:
    return prepared(usual, usual.parent / "store")


@pytest.fixture(scope="module")
def painted(usual: Path, compact_model: Path) -> dict[str, np.ndarray]:
    return images(usual, compact_model, usual.parent / "stained")


def images(plate: Path, model: Path, out: Path, **settings) -> dict[str, np.ndarray]:
    """What is painted of a plate, by well, field and channel."""
    stained = stain_plate(
        StainConfig(plate=plate, model=str(model), out=str(out), **settings), Here()
    )
    assert (len(stained.painted), stained.problems) == (len(KEYS), [])
    return {path.name[-30:]: read_image(path) for path in out.glob("20x_images/*.tif")}


@pytest.mark.parametrize("layout", WRITERS)
def test_a_store_is_the_same_from_every_layout(layout, fields, store, tmp_path):
    """Its digest names the pixels and all that training and judging take from it."""
    plate = WRITERS[layout](tmp_path / "plate", fields)
    found = prepared(plate, tmp_path / "store", **SETTINGS.get(layout, {})).manifest
    told = {"origin": store.manifest.origin, "n_ignored": 0, "ignored": ""}
    assert replace(found, **told) == replace(store.manifest, **told)


@pytest.mark.slow
@pytest.mark.parametrize("layout", WRITERS)
def test_the_same_is_painted_from_every_layout(layout, fields, painted, compact_model, tmp_path):
    plate = WRITERS[layout](tmp_path / "plate", fields)
    given = {name: one for name, one in SETTINGS.get(layout, {}).items() if name != "stain_z"}
    found = images(plate, compact_model, tmp_path / "out", **given)
    np.testing.assert_equal(found, painted)
