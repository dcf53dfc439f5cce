"""How every benchmark ends: JSON, a comparison with what is required, an exit status."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Mapping
from typing import Any

Bounds = Mapping[str, float]


def parser(about: str | None) -> argparse.ArgumentParser:
    """A command line that shows *about*, the benchmark's docstring, and knows `--check`."""
    made = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--check", action="store_true", help="exit 1 where a required figure is missed"
    )
    return made


def report(
    measured: Mapping[str, float],
    check: bool,
    *,
    at_most: Bounds | None = None,
    at_least: Bounds | None = None,
    **about: Any,
) -> int:
    """Print what was *measured*, the machine and *about* what, as JSON. Returns the exit status.

    With *check* it is 1 when a figure is above *at_most* or below *at_least*; the figures that miss
    are named on stderr. A figure that was not measured is not compared.
    """
    rounded = {name: float(f"{value:.4g}") for name, value in measured.items()}
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    print(json.dumps({"machine": machine, **about, "figures": rounded}, indent=1))
    if not check:
        return 0
    missed = [
        f"{name} is {measured[name]:.4g}, at most {most:.4g} is required"
        for name, most in (at_most or {}).items()
        if name in measured and measured[name] > most
    ]
    missed += [
        f"{name} is {measured[name]:.4g}, at least {least:.4g} is required"
        for name, least in (at_least or {}).items()
        if name in measured and measured[name] < least
    ]
    print("\n".join(missed) or "nothing is missed", file=sys.stderr)
    return int(bool(missed))
