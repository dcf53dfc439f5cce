"""Pictures and the table of a store."""

from matplotlib.figure import Figure

from adipocyte.preparation.pictures import histogram_plot, mask_sheet, quality_sheet


def test_pictures_of_a_store_can_be_drawn(small_store, tmp_path):
    for picture in (
        histogram_plot(small_store),
        mask_sheet(small_store),
        quality_sheet(small_store),
    ):
        assert isinstance(picture, Figure)
        picture.savefig(tmp_path / "picture.png", dpi=20)
