"""What was understood of a plate, as a table that is printed before any work."""

from adipocyte.domain import BRIGHTFIELD, TARGET_NAMES
from adipocyte.plate.listing import few, named
from adipocyte.plate.problems import on_one_line
from adipocyte.plate.scan import Plate

_MOST_SHOWN = 8


def understood_table(plate: Plate) -> str:
    """Layout, magnifications, wells, times, fields, z-planes, channels, and what was left alone."""
    told = plate.understood
    fields = [*plate.fields, *plate.partial]
    names = sorted({files.plate for files in fields})
    magnifications = sorted({files.key.magnification for files in fields})
    wells = sorted({files.key.well for files in fields}, key=lambda well: (len(well), well))
    times = sorted({files.key.time for files in fields})
    rows = [
        ("layout", told.layout),
        ("plate", ", ".join(names)),
        ("magnification", ", ".join(_objective(one, told.um_per_px) for one in magnifications)),
        ("wells", f"{len(wells)}: {few(wells, _MOST_SHOWN)}" if wells else "none"),
        ("times", f"{len(times)}: {few(times, _MOST_SHOWN)}" if len(times) > 1 else ""),
        ("fields", _fields(plate)),
        ("z-planes", _z_planes(plate)),
        *(("channel", f"{one}: {_role(told.roles.get(one.number))}") for one in told.channels),
        *(("note", note) for note in told.notes),
        *(
            ("left alone", f"{len(paths)} {what}: {named(paths)}")
            for what, paths in plate.left_alone.items()
        ),
    ]
    return "\n".join(f"{heading:14} {on_one_line(text)}" for heading, text in rows if text)


def _objective(magnification: int, um_per_px: dict[int, float]) -> str:
    size = um_per_px.get(magnification)
    return f"{magnification}x, {size:g} µm per pixel" if size else f"{magnification}x"


def _z_planes(plate: Plate) -> str:
    steps = [f"{um:g} µm apart at {one}x" for one, um in sorted(plate.z_steps_um.items())]
    return ", ".join([str(plate.n_z_planes), *steps])


def _fields(plate: Plate) -> str:
    parts = [f"{len(plate.fields)} whole"]
    if plate.partial:
        parts.append(f"{len(plate.partial)} lack stains")
    if plate.problems:
        parts.append(f"{len(plate.problems)} problems")
    return ", ".join(parts)


def _role(role: str | None) -> str:
    if role is None:
        return "left alone"
    return role if role == BRIGHTFIELD else f"{role} {TARGET_NAMES[role]}"
