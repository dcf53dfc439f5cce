"""Data sets, by which MLflow shows on which data a run trained or a metric was measured."""

import warnings
from pathlib import Path

from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset

from adipocyte.store.reader import Store


def store_dataset(store: Store) -> MetaDataset:
    """A prepared store."""
    return folder_dataset(store.folder, store.digest)


def folder_dataset(folder: Path, digest: str) -> MetaDataset:
    """A folder whose content *digest* stands for."""
    with warnings.catch_warnings():
        # MLflow has several sources for a local folder, and warns that it picks one.
        warnings.simplefilter("ignore")
        source = resolve_dataset_source(str(folder.resolve()))
    # MLflow marks `profile` as abstract without making the class an ABC, so this works.
    return MetaDataset(  # ty: ignore[abstract-class-instantiation]
        source, name=folder.name, digest=digest
    )
