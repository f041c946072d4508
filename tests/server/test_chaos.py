"""Mixed load while workers are killed and suspended: no call fails, no answer is wrong. The harness is bench/endurance.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.server.requests import PATIENCE_S

ENDURANCE = Path(__file__).parents[2] / "bench" / "endurance.py"
SECONDS = 8


def test_no_call_fails_while_workers_are_killed_and_suspended():
    command = [sys.executable, str(ENDURANCE), "chaos", "--seconds", str(SECONDS), "--interval", "1"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS + 6 * PATIENCE_S, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
