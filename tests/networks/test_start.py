"""A network takes over what another has learnt: of other planes, of other stains."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from adipocyte.errors import ConfigError
from adipocyte.networks.files import load_network, save_network
from adipocyte.networks.start import Start, differences, start_from
from adipocyte.networks.unet import UNetSpec, build_unet
from tests.support.bundles import SMALLEST, random_network

COMPACT = {"encoder": "none", "architecture": "compact"}
UNET = {"encoder": SMALLEST, "architecture": "unet"}
KINDS = pytest.mark.parametrize("kind", [COMPACT, UNET], ids=["compact", "unet"])


def saved(
    folder: Path, kind: dict[str, str], n_in: int, paints: tuple[str, ...], sees_mask: bool = False
) -> Start:
    torch.manual_seed(3)
    spec = UNetSpec(in_channels=n_in, out_channels=len(paints), **kind)
    save_network(folder, spec, random_network(spec))
    return Start(folder, paints, sees_mask, "run 1")


def started(
    start: Start,
    kind: dict[str, str],
    n_in: int,
    targets: tuple[str, ...],
    sees_mask: bool = False,
) -> torch.nn.Module:
    torch.manual_seed(4)
    spec = UNetSpec(in_channels=n_in, out_channels=len(targets), **kind)
    network = build_unet(spec)
    start_from(start, network, spec, targets, sees_mask)
    return network.eval()


def painted(network: torch.nn.Module, planes: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return network(planes).numpy()


@KINDS
def test_a_network_of_the_same_kind_paints_the_same(tmp_path, kind):
    start = saved(tmp_path, kind, 7, ("A1", "A2"))
    planes = torch.randn(1, 7, 64, 64)
    expected = painted(load_network(tmp_path)[1], planes)
    np.testing.assert_array_equal(painted(started(start, kind, 7, ("A1", "A2")), planes), expected)


@KINDS
def test_stains_keep_their_outputs_and_new_ones_begin_anew(tmp_path, kind):
    start = saved(tmp_path, kind, 7, ("A1", "", "A3"))
    planes = torch.randn(1, 7, 64, 64)
    nuclei, _, cytoplasm = painted(load_network(tmp_path)[1], planes)[0]
    network = started(start, kind, 7, ("A2", "A3"))
    lipids, again = painted(network, planes)[0]
    np.testing.assert_allclose(again, cytoplasm, rtol=1e-4, atol=1e-4)
    assert np.isfinite(lipids).all()
    assert not np.allclose(lipids, nuclei)


@KINDS
@pytest.mark.parametrize(("n_old", "n_new"), [(7, 3), (3, 7), (7, 1), (1, 4), (5, 4)])
def test_with_other_planes_it_paints_as_of_interpolated_ones(tmp_path, kind, n_old, n_new):
    start = saved(tmp_path, kind, n_old, ("A2",))
    planes = torch.randn(1, n_new, 64, 64)
    places = np.linspace(0, n_new - 1, n_old)
    between = np.stack(
        [
            [np.interp(place, np.arange(n_new), column) for place in places]
            for column in planes[0].flatten(1).T.numpy()
        ],
        axis=-1,
    )
    interpolated = torch.from_numpy(between.astype(np.float32)).reshape(1, n_old, 64, 64)
    expected = painted(load_network(tmp_path)[1], interpolated)
    network = started(start, kind, n_new, ("A2",))
    np.testing.assert_allclose(painted(network, planes), expected, rtol=1e-3, atol=1e-3)


def test_a_store_unlike_what_the_start_has_seen_is_told(tmp_path):
    start = saved(tmp_path, UNET, 5, ("A1",), sees_mask=True)
    assert [*differences(start, 4, "field", {})] == [*differences(start, 7, "plate", {})] == []
    [note] = differences(start, 3, "field", {})
    assert "run 1 has learnt from 4 planes, this store has 3: each plane" in note
    of_plate = replace(start, normalisation="plate")
    assert [*differences(of_plate, 4, "plate", {})] == []
    [note] = differences(of_plate, 4, "field", {})
    assert "normalised by plate, this store normalises by field" in note
    assert [*differences(start, 4, "field", {20: 0.325, 60: 0.108})] == []  # nothing is known
    of_20x = replace(start, um_per_px=(0.325,))
    assert [*differences(of_20x, 4, "field", {60: 0.216})] == []  # joined two by two
    sizes = {10: 0.65, 20: 0.33, 60: 0.108}
    coarse, fine = differences(of_20x, 4, "field", sizes)
    assert "learnt from pixels of 0.325 µm, this training sees 60x in pixels of 0.108 µm" in fine
    assert fine.endswith("another size (-P finest_um_per_px=0.325)")
    assert coarse.endswith("10x in pixels of 0.65 µm: it knows shapes in another size")


def test_the_mask_stays_the_last_input(tmp_path):
    start = saved(tmp_path, UNET, 4, ("A1",), sees_mask=True)  # three planes and the mask
    network = started(start, UNET, 2, ("A1",), sees_mask=True)  # one plane and the mask
    plane, mask = torch.randn(1, 1, 64, 64), torch.rand(1, 1, 64, 64).round()
    expected = painted(load_network(tmp_path)[1], torch.cat([plane, plane, plane, mask], dim=1))
    found = painted(network, torch.cat([plane, mask], dim=1))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "targets", "sees_mask", "found"),
    [
        (
            UNET,
            ("A2",),
            False,
            f"architecture=compact .*, not architecture=unet encoder={SMALLEST}",
        ),
        (COMPACT, ("A1",), False, "paints A2, nothing of A1: -P target=A2"),
        (COMPACT, ("A2",), True, "mask_source=none, not .*mask_source=true"),
    ],
)
def test_another_kind_of_network_is_refused_by_what_differs(
    tmp_path, kind, targets, sees_mask, found
):
    start = saved(tmp_path, COMPACT, 7, ("A2",))
    with pytest.raises(ConfigError, match=found):
        started(start, kind, 7 + sees_mask, targets, sees_mask)
