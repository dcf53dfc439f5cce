"""The bundle on disk is whole, of this format and as it was written, or it is refused by name."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import adipocyte
from adipocyte.domain import TARGETS
from adipocyte.errors import BundleError, ConfigError, ImageError
from adipocyte.imaging.planes import as_many
from adipocyte.imaging.trust import UNTOLD
from adipocyte.networks.files import copy_network, load_network
from adipocyte.plate.tiff import decode_stack, encode_stack, stack_header
from adipocyte.staining import bundle as bundles
from adipocyte.staining.bundle import (
    calibrate_bundle,
    check_files,
    read_calibrations,
    read_histograms,
    read_intervals,
    read_manifest,
    write_bundle,
    write_intervals,
)
from adipocyte.staining.stainer import Stainer
from adipocyte.system.files import digest_of
from tests.support.bundles import SMALLEST, make_bundle, some_widths, unet_specs
from tests.support.plates import planes

TABLES = {
    f"20/{target}": np.roll(np.arange(65536, dtype=np.uint16), 1) for target in ("A1", "A2", "A3")
}
PLANES = np.random.default_rng(0).integers(1000, 3000, (7, 64, 64), dtype=np.uint16)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "bundle", unet_specs(SMALLEST))


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy, calibrated."""
    copied = shutil.copytree(original, tmp_path / "bundle")
    calibrate_bundle(copied, TABLES, "calibration")
    return copied


def killed(real: Callable[..., None]) -> tuple[Callable[..., None], Callable[..., None]]:
    """A step that the power fails before, and one that it fails after."""

    def fails_before(*_):
        raise KeyboardInterrupt

    def fails_after(*args):
        real(*args)
        raise KeyboardInterrupt

    return fails_before, fails_after


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_it_states_what_it_is_and_where_it_came_from(folder):
    stated = json.loads((folder / "bundle.json").read_text())
    assert stated["format"] == 6
    assert stated["networks"]["A1"] == {"paints": ["A1"], "sees_mask": True, "ranges": {}}
    assert stated["version"] == adipocyte.__version__
    assert stated["licences"] == {"code": "MIT"}
    assert stated["n_z_planes"] == 7
    assert stated["intensities"] == "calibration"
    assert stated["scalings"]["20"]["brightfield"] == [2000.0, 500.0]
    assert {
        "runs",
        "store_digest",
        "commit",
        "limits",
        "targets",
        "intensities",
        "storage",
    } <= stated.keys()
    assert set(stated["checksums"]) == set(content(folder)) - {"bundle.json"}


def test_it_holds_nothing_but_json_and_safetensors(folder):
    assert {Path(name).suffix for name in content(folder)} == {".json", ".safetensors"}


def test_calibrations_come_back_as_they_were_written_and_nothing_else_changes(original, folder):
    before, after = asdict(read_manifest(original)), asdict(read_manifest(folder))
    assert read_calibrations(original, read_manifest(original)) == {}
    found = read_calibrations(folder, read_manifest(folder))
    assert set(found) == set(TABLES)
    assert all((found[name] == table).all() for name, table in TABLES.items())
    assert after["checksums"].pop(after["calibrations"])
    assert after == before | {"intensities": "calibration", "calibrations": after["calibrations"]}


def test_new_calibrations_replace_the_old_ones(folder):
    others = {name: np.roll(table, 5) for name, table in TABLES.items()}
    calibrate_bundle(folder, others, "none")
    rescaled = Stainer(folder).rescale({"A2": PLANES[0]}, 20, "calibration")
    np.testing.assert_array_equal(rescaled["A2"], others["20/A2"][PLANES[0]])
    assert len(list(folder.glob("calibrations*"))) == 1
    calibrate_bundle(folder, {}, "none")
    assert not list(folder.glob("calibrations*"))
    Stainer(folder)


@pytest.mark.parametrize("step", ["save", "write_whole", "write_json"])
def test_killed_while_it_is_calibrated_it_stays_whole(folder, monkeypatch, step):
    """Killed before and after each step, as if the power had failed there."""
    others = {name: np.roll(table, 5) for name, table in TABLES.items()}
    for fails in killed(getattr(bundles, step)):
        with monkeypatch.context() as patch:
            patch.setattr(bundles, step, fails)
            with pytest.raises(KeyboardInterrupt):
                calibrate_bundle(folder, others, "matching")
        assert read_manifest(folder).way(None) in ("calibration", "matching")
    calibrate_bundle(folder, others, "matching")
    assert read_manifest(folder).way(None) == "matching"


@pytest.mark.parametrize("intensities", ["calibration", "none"])
def test_it_is_not_calibrated_by_halves(folder, intensities):
    before = content(folder)
    with pytest.raises(BundleError, match="no calibration for 20/A3"):
        calibrate_bundle(
            folder, {name: table for name, table in TABLES.items() if name != "20/A3"}, intensities
        )
    with pytest.raises(BundleError, match="'best'"):
        calibrate_bundle(folder, TABLES, "best")
    assert content(folder) == before


def test_intervals_lie_around_what_is_painted_in_the_way_that_the_bundle_keeps(folder):
    """Before they are there, and for images in another way, it says so."""
    with pytest.raises(ConfigError, match=r"no intervals of A1 at 20x.* register it again"):
        Stainer(folder).stain(PLANES, 20, level=0.9)
    write_intervals(folder, dict.fromkeys(TABLES, some_widths()))
    stainer = Stainer(folder)
    stained = stainer.stain(PLANES, 20, level=0.9)
    plain = stainer.stain(PLANES, 20)
    assert not plain.intervals
    for target, image in plain.images.items():
        low, high = stained.intervals[target]
        assert low.dtype == high.dtype == np.uint16
        assert (low <= image).all()
        assert (image <= high).all()
        assert (low < high).any()
        np.testing.assert_array_equal(stained.images[target], image)
    with pytest.raises(ConfigError, match="with the intensities none: take calibration"):
        stainer.stain(PLANES, 20, intensities="none", level=0.9)


def test_a_bundle_that_is_calibrated_anew_has_no_intervals_any_more(folder):
    write_intervals(folder, dict.fromkeys(TABLES, some_widths()))
    calibrate_bundle(folder, TABLES, "highlights")
    with pytest.raises(ConfigError, match="register it again"):
        Stainer(folder).stain(PLANES, 20, level=0.9)


def test_what_foretold_in_a_bundle_of_before_is_not_read(folder):
    write_intervals(folder, dict.fromkeys(TABLES, some_widths()))
    (folder / "trust.json").write_text('[{"magnification": 20, "weights": {}}]')
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest["checksums"]["trust.json"] = digest_of(folder / "trust.json")
    (folder / "bundle.json").write_text(json.dumps(manifest))
    assert Stainer(folder).stain(PLANES, 20, level=0.9).trust == UNTOLD


@pytest.mark.parametrize("step", ["write_whole", "write_json"])
def test_killed_while_intervals_are_written_it_stays_whole(folder, monkeypatch, step):
    """Killed before and after each step, while it has others."""
    write_intervals(folder, {"20/A1": some_widths()})
    for fails in killed(getattr(bundles, step)):
        with monkeypatch.context() as patch:
            patch.setattr(bundles, step, fails)
            with pytest.raises(KeyboardInterrupt):
                write_intervals(folder, {"20/A2": some_widths()})
        manifest = read_manifest(folder)
        check_files(folder, manifest)
        assert set(read_intervals(folder, manifest)) <= {"20/A1", "20/A2"}
    write_intervals(folder, {"20/A2": some_widths()})
    assert set(read_intervals(folder, read_manifest(folder))) == {"20/A2"}


# Weights.


def test_bfloat16_halves_the_weights_and_paints_nearly_the_same(original, tmp_path):
    small = make_bundle(tmp_path / "bundle", unet_specs(SMALLEST), storage="bfloat16")
    weights = "A2/weights.safetensors"
    assert (small / weights).stat().st_size < 0.51 * (original / weights).stat().st_size
    _, network = load_network(small / "A2")
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    full, half = (
        Stainer(folder).stain(PLANES, 20).images["A2"].astype(float) for folder in (original, small)
    )
    assert 0 < np.abs(full - half).mean() < 0.01 * np.ptp(full)


# What is refused.


def _changed(folder: Path, **entries: object) -> None:
    path = folder / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def _without_checksum(folder: Path, name: str) -> None:
    _changed(
        folder,
        checksums={
            other: digest
            for other, digest in read_manifest(folder).checksums.items()
            if other != name
        },
    )


def _calibrations(folder: Path) -> Path:
    [path] = folder.glob("calibrations-*")
    return path


def _with_tables(folder: Path, tables: dict[str, np.ndarray]) -> None:
    """Replace the calibrations by *tables*, with a checksum that fits."""
    path, manifest = _calibrations(folder), read_manifest(folder)
    save_file(tables, path)
    _changed(folder, checksums=manifest.checksums | {path.name: digest_of(path)})


def _with_intervals(folder: Path, **changed: np.ndarray) -> None:
    write_intervals(folder, {"20/A1": some_widths()})
    path = folder / "intervals.safetensors"
    tables = {f"20/A1/{name}": table for name, table in (some_widths().tables | changed).items()}
    save_file(tables, path)
    _changed(folder, checksums=read_manifest(folder).checksums | {path.name: digest_of(path)})


def _one_byte_changed(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (
            lambda folder: _changed(folder, format=3),
            "has format 3, older than the 4 to 9 that this code reads: register the model again",
        ),
        (
            lambda folder: _changed(folder, format=10),
            "has format 10, newer than the 9 that this code reads: update the code",
        ),
        (
            lambda folder: _changed(folder, intensities="best"),
            "keeps the intensities 'best', not one of none, matching",
        ),
        (
            lambda folder: _changed(folder, targets=["A2", "../A3"]),
            "paints A2, ../A3, of which only A1, A2, A3 are known",
        ),
        (
            lambda folder: _changed(folder, checksums={}),
            "has no checksum of segmenter/network.json",
        ),
        (
            lambda folder: _without_checksum(folder, read_manifest(folder).calibrations),
            "has no checksum of calibrations-",
        ),
        (lambda folder: (folder / "bundle.json").write_text("{"), "holds no whole bundle"),
        (lambda folder: (folder / "bundle.json").unlink(), "holds no whole bundle"),
        (
            lambda folder: shutil.rmtree(folder / "A3"),
            "not whole: .*A3/network.json cannot be read",
        ),
        (
            lambda folder: (folder / "A1" / "weights.safetensors").unlink(),
            "not whole: .*A1/weights.safetensors cannot be read",
        ),
        (
            lambda folder: _one_byte_changed(folder / "A2" / "weights.safetensors"),
            "damaged: .*A2/weights.safetensors is not as it was",
        ),
        (
            lambda folder: _one_byte_changed(folder / "histograms.safetensors"),
            "damaged: .*histograms.safetensors is not as it was",
        ),
        (
            lambda folder: _calibrations(folder).unlink(),
            "not whole: .*calibrations-.*cannot be read",
        ),
        (
            lambda folder: _changed(folder, calibrations=""),
            "no calibration for 20/A1, 20/A2, 20/A3",
        ),
        (
            lambda folder: _with_tables(folder, {"20/A1": TABLES["20/A1"]}),
            "no calibration for 20/A2, 20/A3:",
        ),
        (
            lambda folder: _with_tables(folder, {"20/A1": np.zeros(10, np.uint16)}),
            r"is uint16 of shape \(10,\), not uint16 of \(65536,\)",
        ),
        (
            lambda folder: _with_intervals(folder, risk=np.zeros(3)),
            r"holds no intervals \(risk is float64 of shape \(3,\), not float64",
        ),
        (
            lambda folder: _with_intervals(folder, starts=some_widths().starts[::-1].copy()),
            r"holds no intervals \(starts do not rise from 0",
        ),
        (
            lambda folder: _with_intervals(folder, more=np.zeros(3)),
            "holds no intervals .*unexpected keyword argument 'more'",
        ),
    ],
    ids=[
        "older",
        "newer",
        "way",
        "target",
        "no checksums",
        "no checksum of the calibrations",
        "half a manifest",
        "no manifest",
        "no network",
        "no weights",
        "a changed weight",
        "a changed histogram",
        "no calibrations",
        "not calibrated",
        "a table missing",
        "a short table",
        "short intervals",
        "intervals out of order",
        "unknown intervals",
    ],
)
def test_it_is_refused_by_name(folder: Path, damage: Callable[[Path], None], sentence: str):
    damage(folder)
    with pytest.raises(BundleError, match=sentence):
        Stainer(folder)


def test_a_network_that_is_no_network_is_no_bundle(original, tmp_path):
    networks = {
        name: shutil.copytree(original / name, tmp_path / name)
        for name in ("segmenter", "A1", "A2", "A3")
    }
    (networks["A2"] / "weights.safetensors").write_bytes(b"damage")
    manifest = replace(read_manifest(original), storage="bfloat16")
    with pytest.raises(BundleError, match="train the network again"):
        write_bundle(tmp_path / "bundle", manifest, networks, {})


def test_histograms_are_read_as_they_were_written(original):
    written = load_file(original / "histograms.safetensors")["20/A1"]
    np.testing.assert_array_equal(read_histograms(original)["20/A1"], written)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", "4"),
        ("targets", "A1"),
        ("targets", [["A1"]]),
        ("n_z_planes", "7"),
        ("scalings", []),
        ("scalings", {"20": {"brightfield": [1, 2]}}),
        ("scalings", {"../20": {}}),
        ("scalings", {"20": dict.fromkeys(["brightfield", *TARGETS], (1, float("nan")))}),
        ("limits", {"20": {"focus": ["1", 2]}}),
        ("runs", None),
        ("licences", [1]),
        ("intensities", ["none"]),
        ("storage", 1),
        ("calibrations", "../calibrations.safetensors"),
        ("calibrations", "/dev/zero"),
        ("checksums", None),
        ("checksums", {"../x": "0"}),
        ("checksums", {"/etc/passwd": "0"}),
        ("checksums", {"A1/../../x": "0"}),
        ("checksums", {"A1\\x": "0"}),
        ("checksums", {"A1\0": "0"}),
        ("checksums", {"A1/": "0"}),
    ],
)
def test_a_field_of_another_form_is_refused(original, tmp_path, key, value):
    stated = json.loads((original / "bundle.json").read_text())
    (tmp_path / "bundle.json").write_text(json.dumps(stated | {key: value}))
    with pytest.raises(BundleError, match="holds no whole bundle"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "null", "{", "4", '"a"'])
def test_json_of_any_content_is_refused(tmp_path, text):
    (tmp_path / "bundle.json").write_text(text)
    with pytest.raises(BundleError, match="holds no whole bundle"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "name", ["bundle.json", "A2/network.json", "A2/weights.safetensors", "histograms.safetensors"]
)
def test_what_is_no_regular_file_is_never_opened(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(BundleError, match="it is a FIFO"):
        Stainer(folder)


@pytest.mark.parametrize("name", ["bundle.json", "A2", "A2/weights.safetensors"])
def test_a_link_out_of_the_bundle_is_refused_and_one_to_the_bundle_is_not(folder, tmp_path, name):
    (tmp_path / "link").symlink_to(folder)
    bundles.check_files(tmp_path / "link", read_manifest(tmp_path / "link"))
    moved = (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(moved)
    with pytest.raises(BundleError, match=f"{name}.* is a link out of the bundle"):
        bundles.check_files(folder, read_manifest(folder))


@pytest.mark.parametrize("name", ["network.json", "weights.safetensors"])
def test_a_network_that_is_no_regular_file_is_never_opened(original, tmp_path, name):
    network = shutil.copytree(original / "A2", tmp_path / "A2")
    (network / name).unlink()
    os.mkfifo(network / name)
    with pytest.raises(BundleError, match="it is a FIFO"):
        load_network(network)
    with pytest.raises(BundleError, match="it is a FIFO"):
        copy_network(network, tmp_path / "copy", "float32")


@pytest.mark.parametrize(
    "changed",
    [
        {"in_channels": 10**12},
        {"in_channels": "7"},
        {"in_channels": None},
        {"encoder": "tu-hf_hub:someone/model"},
        {"encoder": ["resnet18"]},
        {"architecture": "fpn"},
        {"wide_convolutions": "some"},
        {"more": 1},
    ],
    ids=str,
)
def test_a_network_of_another_description_is_refused(original, tmp_path, changed):
    network = shutil.copytree(original / "A2", tmp_path / "A2")
    stated = json.loads((network / "network.json").read_text())
    (network / "network.json").write_text(json.dumps(stated | changed))
    with pytest.raises(BundleError, match="cannot be loaded"):
        load_network(network)


@pytest.fixture(scope="module")
def by_field(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that normalises each field by itself."""
    copied = shutil.copytree(small_bundle, tmp_path_factory.mktemp("by_field") / "bundle")
    _changed(copied, normalisation="field")
    return copied


def test_a_field_is_normalised_by_itself_where_the_bundle_says_so(by_field, small_bundle):
    dim, bright = (planes() // 4 * times for times in (1, 4))
    by_itself, by_plate = Stainer(by_field), Stainer(small_bundle)
    same, other = (
        [stainer.stain(stack, 20).images["A2"] for stack in (dim, bright)]
        for stainer in (by_itself, by_plate)
    )
    assert not by_itself.stain(planes(0), 20).warnings
    *unlike, last = by_itself.stain(dim, 20).warnings
    assert unlike
    assert last.startswith("painted counts are those of a typical training well")
    # Four times the light is the same picture, but for the rounding of float32.
    assert np.abs(same[0].astype(int) - same[1]).max() <= 1
    assert np.abs(other[0].astype(int) - other[1]).mean() > 10


def test_constant_planes_cannot_be_normalised_by_themselves(by_field):
    with pytest.raises(ImageError, match="the planes are constant: send an image of cells"):
        Stainer(by_field).stain(np.full((7, 64, 64), 900, np.uint16), 20)


def test_a_bundle_of_before_normalises_by_its_plate(folder):
    stated = json.loads((folder / "bundle.json").read_text())
    now = read_manifest(folder)
    for name in ("normalisation", "started_from", "any_planes"):
        del stated[name]
    (folder / "bundle.json").write_text(json.dumps(stated | {"format": 5}))
    assert read_manifest(folder) == now
    assert now.normalisation == "plate"


def test_another_normalisation_than_is_known_is_refused(folder):
    _changed(folder, normalisation="mood")
    with pytest.raises(BundleError, match="normalises by 'mood', not one of plate, report, field"):
        read_manifest(folder)


@pytest.fixture(scope="module")
def any_planes(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Stainer:
    copied = shutil.copytree(small_bundle, tmp_path_factory.mktemp("any") / "bundle")
    _changed(copied, any_planes=True)
    return Stainer(copied)


@pytest.mark.parametrize("n_planes", [1, 3, 7, 9])
def test_a_model_for_any_planes_paints_of_planes_between_those_of_a_stack(any_planes, n_planes):
    stack = np.concatenate([planes(0), planes(1)])[:n_planes]
    painted = any_planes.stain(stack, 20).images
    expected = any_planes.stain(as_many(stack, 7), 20).images
    for target, image in expected.items():
        np.testing.assert_array_equal(painted[target], image)


def test_more_planes_than_any_and_other_planes_than_learnt_are_refused(any_planes, folder):
    many = np.zeros((10, 64, 64), dtype=np.uint16)
    with pytest.raises(ImageError, match=r"uint16 counts of shape \(1 to 9, Y, X\)"):
        any_planes.stain(many, 20)
    with pytest.raises(ImageError, match=r"uint16 counts of shape \(7, Y, X\)"):
        Stainer(folder).stain(many[:3], 20)


def test_a_served_stack_may_have_any_planes_by_its_headers_and_pixels(any_planes):
    allowed = any_planes.manifest.plane_numbers
    stack = np.random.default_rng(0).integers(0, 4000, (3, 64, 80), dtype=np.uint16)
    assert stack_header(encode_stack(stack), allowed).shape == (64, 80)
    np.testing.assert_array_equal(decode_stack(encode_stack(stack), allowed), stack)
    with pytest.raises(ImageError, match="more than 9 pages: it must have 1 to 9 grey pages"):
        decode_stack(encode_stack(np.zeros((10, 64, 64), np.uint16)), allowed)
