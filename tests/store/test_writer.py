"""The store opens in public readers as a valid OME-Zarr plate."""

import numpy as np
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from ome_zarr_models.v05 import HCS, Image, ImageLabel

from adipocyte.domain import TARGETS
from adipocyte.store.paths import field_path, mask_path, plate_path

CHANNELS = ["Z1", "Z2", "Z3", "Z4", "Z5", "Z6", "Z7", *TARGETS]


def test_a_public_validator_finds_a_valid_plate_of_images_with_labels(small_store):
    for magnification in (20, 40):
        HCS.from_zarr(zarr.open_group(plate_path(small_store.folder, magnification), mode="r"))
    for key in small_store.manifest.fields:
        image = Image.from_zarr(zarr.open_group(field_path(small_store.folder, key), mode="r"))
        assert [channel["label"] for channel in image.attributes.ome.omero["channels"]] == CHANNELS
        ImageLabel.from_zarr(zarr.open_group(mask_path(small_store.folder, key), mode="r"))


def test_the_size_of_a_pixel_is_that_of_the_magnification(small_store):
    for key in small_store.manifest.fields:
        um_per_px = {20: 0.325, 40: 0.163}[key.magnification]
        for path, n_others in (
            (field_path(small_store.folder, key), 1),
            (mask_path(small_store.folder, key), 0),
        ):
            (dataset,) = zarr.open_group(path, mode="r").attrs["ome"]["multiscales"][0]["datasets"]
            assert dataset["coordinateTransformations"] == [
                {"type": "scale", "scale": [1.0] * n_others + [um_per_px] * 2}
            ]


def test_the_reader_that_viewers_use_opens_field_and_mask(small_store):
    key = small_store.keys("validation")[0]
    image, *others = Reader(parse_url(field_path(small_store.folder, key), mode="r"))()
    np.testing.assert_array_equal(image.data[0].compute()[:7], small_store.planes(key))
    masks = [node for node in others if node.zarr.basename() == "nuclei"]
    np.testing.assert_array_equal(masks[0].data[0].compute().astype(bool), small_store.mask(key))
