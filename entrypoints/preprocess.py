"""`mlflow run . -e preprocess`: a raw plate to a prepared store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adipocyte.config import PreprocessConfig
from entrypoints.command import command, next_command

if TYPE_CHECKING:
    from adipocyte.store.reader import Store


@command(PreprocessConfig)
def preprocess(config: PreprocessConfig) -> None:
    """Prepare a raw plate: OME-Zarr store, nuclei masks, alignment, quality, the split by well.

    The plate itself is only read. The same command resumes an interrupted preparation.
    """
    if config.look:
        look_at(config)
        return
    import mlflow

    from adipocyte.delivery.runs.runs import STORE_TAG, log_table, step_run
    from adipocyte.plate.problems import problem_table
    from adipocyte.preparation.alignment import alignment_sentences
    from adipocyte.preparation.pictures import (
        histogram_plot,
        mask_sheet,
        quality_rows,
        quality_sheet,
    )
    from adipocyte.preparation.prepare import prepare
    from adipocyte.store.alignments import sites_json

    with step_run("preprocess", config):
        store = prepare(config)
        manifest = store.manifest
        flagged = {key: entry.flags for key, entry in manifest.fields.items() if entry.flags}
        mlflow.set_tag(STORE_TAG, store.digest)
        mlflow.log_artifact(str(store.folder / "manifest.json"))
        for magnification, channels in manifest.scalings.items():
            for channel, (mean, std) in channels.items():
                name = f"{channel}_{magnification}x"
                mlflow.log_metrics({f"mean_{name}": mean, f"std_{name}": std})
        skipped = {problem.where for problem in manifest.problems}
        mlflow.log_metrics(
            {"fields": len(manifest.fields), "flagged": len(flagged), "skipped": len(skipped)}
        )
        mlflow.log_dict(sites_json(manifest.alignments), "alignment.json")
        log_table(quality_rows(store), "quality")
        mlflow.log_figure(quality_sheet(store), "quality.png")
        mlflow.log_figure(histogram_plot(store), "histograms.png")
        mlflow.log_figure(mask_sheet(store), "masks.png")
    for sentence in alignment_sentences(manifest.registrations):
        print(f"Alignment, {sentence}.")
    if manifest.problems:
        print("Left out, a stain where only that is missing, else the field:")
        print(problem_table(manifest.problems))
    for key, sentences in flagged.items():
        print(f"Flagged, field {key}: {'; '.join(sentences)}")
    if flagged and config.flagged == "keep":
        print(
            f"{len(flagged)} flagged fields are used for training; "
            "-P flagged=leave_out trains without them."
        )
    say_of_split(store)
    others = f" ({manifest.ignored})" if manifest.ignored else ""
    print(
        f"{len(manifest.fields)} fields in {store.folder} (store {store.digest}, "
        f"{manifest.n_z_planes} z-planes)."
    )
    print(f"{manifest.n_ignored} other files were left alone{others}.")
    print(f"Next: {next_command('train_segmenter', config.store)}")


def say_of_split(store: Store) -> None:
    """Print what is unusual of a store's split: a well in two parts, a part without a stain."""
    from adipocyte.preparation.split import rare_stains, without_stains

    split = store.manifest.split
    if shared := set(split["validation"]) & set(split["test"]):
        print(
            f"Few wells: {', '.join(sorted(shared))} both chooses the best networks and judges "
            "them, so the measurements on it are a little too good."
        )
    stains = {key: store.targets(key) for key in store.manifest.fields}
    if sentence := without_stains(split, rare_stains(stains)):
        print(sentence)


def look_at(config: PreprocessConfig) -> None:
    """Print what is understood of a plate and its problems. The run is of a step of its own."""
    import mlflow

    from adipocyte.delivery.runs.runs import step_run
    from adipocyte.plate.problems import problem_table
    from adipocyte.plate.understood import understood_table
    from adipocyte.preparation.prepare import look

    with step_run("look", config):
        plate = look(config)
        parts = [understood_table(plate)]
        parts += [problem_table(plate.problems)] if plate.problems else []
        mlflow.log_text("\n\n".join(parts) + "\n", "understood.txt")
    print("\n\n".join(parts))
    print("Nothing was prepared. Next: the same command without look.")


if __name__ == "__main__":
    preprocess()
