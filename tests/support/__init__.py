"""What tests and benchmarks share: plates, bundles, models, servers, and where things lie."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("ADIPOCYTE_SHARED", ROOT.parent / "shared"))  # data that no clone has
