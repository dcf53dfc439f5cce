"""The place of a store: who may work on it, and how a new store takes the place of an older one."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adipocyte.domain import MAGNIFICATIONS
from adipocyte.errors import StoreError
from adipocyte.store.manifest import STORE_MANIFEST, Origin, read_manifest
from adipocyte.store.paths import HISTOGRAMS, RECORDS, plate_path


@contextmanager
def alone(folder: Path) -> Iterator[Path]:
    """Keep other processes from preparing the store *folder*; gives the folder to make it in, which may hold an interrupted one.

    Raises StoreError when another process is at it, or *folder* holds something that is no store.
    """
    if folder.exists() and not _is_ours(folder):
        raise StoreError(
            f"{folder} holds something that is no prepared store: name another folder with -P store=<folder>, or remove it"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside the folders, which move, and never removed: a lock that is removed can be held twice.
    with folder.with_name(f".{folder.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(
                f"another preprocess is at work on {folder}: wait for it, or name another with -P store=<folder>"
            ) from error
        shutil.rmtree(_old(folder), ignore_errors=True)
        yield folder.with_name(folder.name + ".partial")


def is_made_from(folder: Path, origin: Origin) -> bool:
    """Whether *folder* holds a whole store of just this *origin*."""
    try:
        return read_manifest(folder).origin == origin
    except StoreError:
        return False


def begin(partial: Path) -> None:
    """Make room for a store in the making. What finished fields left there stays, for each of them says what it was made from."""
    partial.mkdir(exist_ok=True)
    (partial / STORE_MANIFEST).unlink(missing_ok=True)


def take(folder: Path, partial: Path) -> None:
    """Put the whole store *partial* in the place of *folder*. Killed at any point, it is finished by the next call."""
    shutil.rmtree(partial / RECORDS, ignore_errors=True)
    if folder.exists():
        folder.rename(_old(folder))
    partial.rename(folder)
    shutil.rmtree(_old(folder), ignore_errors=True)


def _old(folder: Path) -> Path:
    return folder.with_name(folder.name + ".old.partial")


def _is_ours(folder: Path) -> bool:
    """Whether *folder* is empty or a store: what is replaced must hold nothing else."""
    if not folder.is_dir():
        return False
    names, own = (
        {path.name for path in folder.iterdir() if not path.name.startswith(".")},
        {STORE_MANIFEST, HISTOGRAMS},
    )
    return not names or own <= names <= own | {
        plate_path(Path(), magnification).name for magnification in MAGNIFICATIONS
    }
