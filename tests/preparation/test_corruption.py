"""210 damaged fields: each is reported, flagged or harmless, and no other field suffers."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from adipocyte.config import PreprocessConfig
from adipocyte.domain import FieldKey
from adipocyte.plate.fields import RawField, write_field
from adipocyte.plate.names import brightfield_name, target_name
from adipocyte.preparation.prepare import prepare
from adipocyte.simulation import simulate_field
from adipocyte.store.reader import Store

SIDE_PX, N_GOOD, N_EACH = 64, 30, 30
Damage = Callable[[np.ndarray, bytes, np.random.Generator], bytes]


def tiff_of(image: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, image, **options)
    return buffer.getvalue()


def truncated(image: np.ndarray, data: bytes, random: np.random.Generator) -> bytes:
    return data[: random.integers(len(data))]


def flipped_header(image: np.ndarray, data: bytes, random: np.random.Generator) -> bytes:
    """Four bits somewhere before the pixels."""
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        start = tiff.pages.first.dataoffsets[0]
    damaged = bytearray(data)
    for position in random.integers(0, start, 4):
        damaged[position] ^= 1 << random.integers(8)
    return bytes(damaged)


def flipped_compressed(image: np.ndarray, data: bytes, random: np.random.Generator) -> bytes:
    """A byte of compressed pixels.

    Deflate carries a checksum. LZW, zstd as TIFF uses it and plain pixels carry none, so their
    damage cannot be found.
    """
    data = tiff_of(image, compression="zlib")
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        start, length = tiff.pages.first.dataoffsets[0], tiff.pages.first.databytecounts[0]
    damaged = bytearray(data)
    damaged[start + random.integers(length // 2)] ^= 0xFF
    return bytes(damaged)


def wrong_shape(image: np.ndarray, data: bytes, random: np.random.Generator) -> bytes:
    shapes = [
        image[:-1],
        image[:, :-7],
        image[:0],
        image[None, None, :3],
        np.stack([image] * 3, axis=-1),
        np.stack([image] * 2),
        image.reshape(1, -1),
    ]
    choice = shapes[random.integers(len(shapes))]
    return tiff_of(choice, photometric="minisblack") if choice.size else b"II*\0" + bytes(20)


def wrong_values(image: np.ndarray, data: bytes, random: np.random.Generator) -> bytes:
    """NaN, floats, signed and long integers, complex numbers."""
    kinds = [np.float32, np.float64, np.int16, np.uint32, np.complex64, np.float16]
    values = image.astype(kinds[random.integers(len(kinds))])
    if values.dtype.kind == "f":
        values[random.integers(len(values))] = np.nan
    return tiff_of(values)


def all_zero(image: np.ndarray, data: bytes, random: np.random.Generator) -> bytes:
    return tiff_of(np.zeros_like(image))


def all_saturated(image: np.ndarray, data: bytes, random: np.random.Generator) -> bytes:
    return tiff_of(np.full_like(image, 65535))


DAMAGES = (
    truncated,
    flipped_header,
    flipped_compressed,
    wrong_shape,
    wrong_values,
    all_zero,
    all_saturated,
)


@pytest.fixture(scope="module")
def wreck(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Store, dict[FieldKey, RawField], dict[int, str]]:
    """A plate of 30 good fields and 30 of each damage, prepared as far as it can be.

    Returns the store, the truth, and the damage of each bad field.
    """
    folder = tmp_path_factory.mktemp("wreck")
    scene = simulate_field(20, (4 * SIDE_PX, 4 * SIDE_PX), seed=1)
    truth, bad = {}, {}
    for fov in range(1, N_GOOD + N_EACH * len(DAMAGES) + 1):
        random = np.random.default_rng(fov)
        y, x = random.integers(0, 3 * SIDE_PX, 2)
        window = np.s_[..., y : y + SIDE_PX, x : x + SIDE_PX]
        field = RawField(
            scene.planes[window], {target: image[window] for target, image in scene.targets.items()}
        )
        key = FieldKey(20, ("B03", "B04", "C02")[fov % 3], fov)
        write_field(folder / "plate", key, field)
        truth[key] = field
        if fov > N_GOOD:
            damage = DAMAGES[fov % len(DAMAGES)]
            path = _one_image(folder / "plate", key, random)
            path.write_bytes(damage(tifffile.imread(path), path.read_bytes(), random))
            bad[fov] = f"{damage.__name__} {path.name[-19:]}"
    config = PreprocessConfig(
        plate=folder / "plate",
        store=folder / "store",
        on_error="skip",
        align="none",
        workers=0,
    )
    return prepare(config), truth, bad


def _one_image(plate: Path, key: FieldKey, random: np.random.Generator) -> Path:
    names = [brightfield_name(key, z) for z in range(1, 8)] + [
        target_name(key, t) for t in ("A1", "A2", "A3")
    ]
    return plate / "20x_images" / str(names[random.integers(10)])


def unlike(store: Store, key: FieldKey, field: RawField) -> bool:
    """Whether the store holds other pixels of a field than the microscope wrote."""
    targets = [(store.target(key, target), image) for target, image in field.targets.items()]
    return any(
        (found != image).any() for found, image in [(store.planes(key), field.planes), *targets]
    )


def test_every_damage_is_reported_flagged_or_harmless(wreck):
    store, truth, bad = wreck
    assert len(bad) == 210
    told = {problem.where for problem in store.manifest.problems}
    quiet = []
    for key, field in truth.items():
        if (
            key.fov in bad
            and str(key) not in told
            and not store.manifest.fields[key].flags
            and unlike(store, key, field)
        ):
            quiet.append(bad[key.fov])
    assert quiet == []


def test_constant_images_are_flagged_and_the_rest_reported(wreck):
    store, _, bad = wreck
    told = {problem.where for problem in store.manifest.problems}
    for key, entry in store.manifest.fields.items():
        if bad.get(key.fov, "").startswith(("all_zero", "all_saturated")):
            assert entry.flags, bad[key.fov]
    must = ("wrong_shape", "wrong_values")
    assert all(str(key) in told for key in wreck[1] if bad.get(key.fov, "").startswith(must))


def test_good_fields_come_through_whole(wreck):
    store, truth, bad = wreck
    good = [key for key in truth if key.fov not in bad]
    assert len(good) == N_GOOD
    assert not any(unlike(store, key, truth[key]) for key in good)
    assert all(problem.remedy for problem in store.manifest.problems)
