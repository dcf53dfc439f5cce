"""Staining a whole raw plate into a folder."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from adipocyte.errors import ImageError, PlateError
from adipocyte.networks.inference import has_compiler
from adipocyte.plate.reader import FieldFiles, FieldKey, read_field, stained_path
from adipocyte.plate.scan import Problem, problem_of, scan_plate
from adipocyte.plate.tiff import write_image
from adipocyte.staining.stainer import Stainer

_COMPILING_PAYS_FIELDS = 16  # full fields pay for it from the third on, small ones later; measured: benchmarks/staining.py


@dataclass(frozen=True)
class StainedPlate:
    """What became of each field: painted now, painted before, or what kept it from being so; and warnings by field."""

    painted: list[FieldKey]
    skipped: list[FieldKey]
    problems: list[Problem]
    warnings: dict[FieldKey, tuple[str, ...]]


def shall_compile(wish: str, n_fields: int) -> bool:
    """Whether to compile the networks for a plate of *n_fields*: *wish* is "on", "off" or "auto", where it pays and can be done."""
    return n_fields >= _COMPILING_PAYS_FIELDS and has_compiler() if wish == "auto" else wish == "on"


def stain_plate(
    stainer: Stainer, plate: Path, out: Path, *, intensities: str | None = None, tile_px: int | None = None, tta: bool = False
) -> StainedPlate:
    """Paint every field of a raw *plate* into *out*, uint16 TIFFs under the challenge's names.

    A field whose images are all there is skipped, so the same command continues an interrupted one; a field that is not whole or
    cannot be read is recorded and does not stop the plate. `stained.json` in *out* says what painted which plate, and how.
    *intensities* (None: as the bundle keeps), *tile_px* and *tta* are those of `Stainer.stain`.

    Raises PlateError when there is no plate, *out* lies in the plate or holds images of another plate, model or way; ConfigError when
    the bundle does not know the way.
    """
    way = stainer.way(intensities)
    scanned = scan_plate(plate, targets=())
    if out.resolve().is_relative_to(plate.resolve()):
        raise PlateError(f"{out} lies in the raw plate, which is never written to: name another folder with -P out=<folder>")
    _claim(
        out,
        {"plate": str(plate.resolve()), "bundle": asdict(stainer.manifest), "intensities": way, "tta": tta, "precision": stainer.precision},
    )
    result = StainedPlate([], [], list(scanned.problems), {})
    for field in tqdm(scanned.fields, desc="stain", unit="field"):
        paths = {target: stained_path(out, field, target) for target in stainer.manifest.targets}
        if all(path.is_file() for path in paths.values()):
            result.skipped.append(field.key)
            continue
        try:
            result.warnings[field.key] = _stain_field(stainer, field, paths, way, tile_px, tta)
            result.painted.append(field.key)
        except (ImageError, PlateError) as error:
            result.problems.append(problem_of(field.key, error))
    return result


def _stain_field(stainer: Stainer, field: FieldFiles, paths: dict[str, Path], way: str, tile_px: int | None, tta: bool) -> tuple[str, ...]:
    planes = read_field(field, ()).planes
    stained = stainer.stain(planes, field.key.magnification, intensities=way, tile_px=tile_px, tta=tta)
    for target, image in stained.images.items():
        write_image(paths[target], image)
    return stained.warnings


def _claim(out: Path, origin: dict[str, Any]) -> None:
    """Write down what *out* holds, or refuse when it holds something else: plates share their files' names."""
    label, content = out / "stained.json", json.dumps(origin, indent=1, sort_keys=True)
    if label.is_file() and label.read_text() != content:
        raise PlateError(
            f"{out} holds images of another plate, model, intensities or arithmetic (see {label}): name another folder with -P out=<folder>"
        )
    out.mkdir(parents=True, exist_ok=True)
    label.write_text(content)
