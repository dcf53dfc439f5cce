"""What the pages have in common: what is put into them is text, and numbers are for people."""

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template


def template(*packages: str) -> Template:
    """The page.html of the first of *packages*; it may include files of all, the first's first.

    It escapes all that is put into it, except our charts.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, ".") for package in packages]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment.get_template("page.html")


def number(value: float | None, digits: int = 3) -> str:
    """A number for people; a dash if there is none."""
    if value is None or not np.isfinite(value):
        return "–"
    return f"{value:,.{digits}f}".replace("-", "−")
