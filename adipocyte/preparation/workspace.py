"""The folder that a store is made in: who may work there, and how it replaces an older store."""

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from adipocyte.errors import StoreError
from adipocyte.plate.names import in_zarr_plate
from adipocyte.store.manifest import STORE_MANIFEST, Origin, read_manifest
from adipocyte.store.paths import HISTOGRAMS, RECORDS
from adipocyte.system.files import HeldError, locked


@contextmanager
def alone(folder: Path) -> Generator[Path]:
    """Keep other processes from preparing the store *folder* while the block lasts.

    Gives the folder to make the store in, which may hold the work of an interrupted preparation.

    Raises StoreError when another process prepares *folder*, or when it holds something else than a
    store.
    """
    if folder.exists() and not _is_ours(folder):
        raise StoreError(
            f"{folder} holds something that is no prepared store",
            "name another folder with -P store=<folder>, or remove it",
        )
    try:
        # The lock file lies beside the folders, because they are renamed.
        with locked(folder.with_name(f".{folder.name}.lock")):
            shutil.rmtree(_old(folder), ignore_errors=True)
            yield folder.with_name(folder.name + ".partial")
    except HeldError as error:
        raise StoreError(
            f"another preprocess is at work on {folder}",
            "wait for it, or name another folder with -P store=<folder>",
        ) from error


def is_made_from(folder: Path, origin: Origin) -> bool:
    """Whether *folder* holds a whole store of exactly this *origin*."""
    try:
        return read_manifest(folder).origin == origin
    except StoreError:
        return False


def begin(partial: Path) -> None:
    """Make the folder *partial*, which is no whole store from now on.

    Its finished fields stay, because the record of each says what it was made from.
    """
    partial.mkdir(exist_ok=True)
    (partial / STORE_MANIFEST).unlink(missing_ok=True)


def take(folder: Path, partial: Path) -> None:
    """Replace *folder* with the whole store *partial*. After a kill, another call finishes that."""
    shutil.rmtree(partial / RECORDS, ignore_errors=True)
    if folder.exists():
        folder.rename(_old(folder))
    partial.rename(folder)
    shutil.rmtree(_old(folder), ignore_errors=True)


def _old(folder: Path) -> Path:
    return folder.with_name(folder.name + ".old.partial")


def _is_ours(folder: Path) -> bool:
    """Whether *folder* is empty or a store and holds nothing else, so that it may be replaced."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    required = {STORE_MANIFEST, HISTOGRAMS}
    others = {name for name in names - required if not in_zarr_plate(name)}
    return not names or (required <= names and not others)
