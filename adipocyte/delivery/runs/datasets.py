"""Data sets as MLflow shows them beside runs and metrics."""

import warnings
from pathlib import Path

from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset

from adipocyte.store.reader import Store


def store_dataset(store: Store) -> MetaDataset:
    """A prepared store as MLflow shows which data a run or a metric is of."""
    return folder_dataset(store.folder, store.digest)


def folder_dataset(folder: Path, digest: str) -> MetaDataset:
    """A folder whose content *digest* stands for."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # MLflow knows several words for a local folder, and says so
        source = resolve_dataset_source(str(folder.resolve()))
    return MetaDataset(source, name=folder.name, digest=digest)
