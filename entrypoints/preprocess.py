"""`mlflow run . -e preprocess`: a raw plate to a prepared store."""

from pathlib import Path

from adipocyte.config import PreprocessConfig, listed
from entrypoints.command import command, next_command


@command(PreprocessConfig)
def preprocess(config: PreprocessConfig) -> None:
    """Prepare a raw plate: OME-Zarr store, nuclei masks, statistics, the split by well. The plate itself is only read."""
    from adipocyte.store.prepare import Masking, prepare

    store = prepare(
        Path(config.plate),
        Path(config.store),
        masking=Masking(threshold=config.mask_threshold, superpixel_px=config.mask_superpixel_px, smallest_px=config.mask_smallest_px),
        normalisation=config.normalisation,
        validation_wells=listed(config.validation_wells),
        test_wells=listed(config.test_wells),
        seed=config.seed,
    )

    import mlflow

    from adipocyte.delivery.tracking import step_run
    from adipocyte.store.pictures import histogram_plot, mask_sheet

    with step_run("preprocess", config, store=store.digest):
        mlflow.log_artifact(str(store.folder / "manifest.json"))
        for magnification, channels in store.manifest.scalings.items():
            for channel, (mean, std) in channels.items():
                mlflow.log_metrics({f"mean_{channel}_{magnification}x": mean, f"std_{channel}_{magnification}x": std})
        mlflow.log_figure(histogram_plot(store), "histograms.png")
        mlflow.log_figure(mask_sheet(store), "masks.png")
    if shared := set(store.manifest.split["validation"]) & set(store.manifest.split["test"]):
        print(f"Few wells: {', '.join(sorted(shared))} both chooses the best networks and judges them, so its figures flatter a little.")
    print(f"{len(store.manifest.fields)} fields in {store.folder} (store {store.digest}).")
    print(f"Next: {next_command('train_segmenter', config.store)}")


if __name__ == "__main__":
    preprocess()
