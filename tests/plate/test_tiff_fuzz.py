"""A hostile TIFF is read or refused in words.

None crashes the reader, makes it allocate beyond the limit or open another file. To try more than
three hundred: ADIPOCYTE_FUZZ_EXAMPLES=5000 pytest tests/plate/test_tiff_fuzz.py --timeout 3600
"""

import json
import os
import subprocess
import sys

from tests.support import ROOT

N_EXAMPLES = os.environ.get("ADIPOCYTE_FUZZ_EXAMPLES", "300")


def test_every_tiff_is_read_or_refused_in_words(tmp_path):
    (tmp_path / "secret.tif").touch()
    result = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "support" / "tiff_fuzz.py"), N_EXAMPLES],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-8000:]
    report = json.loads(result.stdout.splitlines()[-1])
    print(report)
    assert report["seen"]["refused"] >= int(N_EXAMPLES)
    assert report["seen"]["read"] >= int(N_EXAMPLES) / 10
