"""Every request is answered, or refused in words.

None crashes the served model, hangs it, makes it allocate beyond the limit or open a file. To send
more than three hundred requests:
ADIPOCYTE_FUZZ_EXAMPLES=10000 pytest tests/delivery/serving/test_request_fuzz.py --timeout 3600
"""

import json
import os
import subprocess
import sys

from tests.support import ROOT

N_EXAMPLES = os.environ.get("ADIPOCYTE_FUZZ_EXAMPLES", "300")


def test_every_request_is_answered_or_refused_in_words(compact_model, tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "ADIPOCYTE_MEMORY_MB": "200",
        "TMPDIR": str(tmp_path),
    }
    command = [
        sys.executable,
        str(ROOT / "tests" / "support" / "request_fuzz.py"),
        str(compact_model),
        N_EXAMPLES,
    ]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-8000:]
    report = json.loads(result.stdout.splitlines()[-1])
    print(report)
    assert report["requests"] >= int(N_EXAMPLES) / 2  # hypothesis may find no more that differ
    assert report["tempted"] >= 50
    assert report["by_status"]["200"] >= 10
    assert report["by_status"]["400"] >= int(N_EXAMPLES) / 4
