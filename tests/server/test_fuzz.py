"""Mutated requests, some hundreds of every kind; bench/fuzz.py sends as many as one likes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.server.requests import PATIENCE_S

FUZZ = Path(__file__).parents[2] / "bench" / "fuzz.py"
COUNT = 1500


def test_mutated_requests_are_answered_or_refused(tmp_path):
    command = [sys.executable, str(FUZZ), "--count", str(COUNT), "--failures", str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=10 * PATIENCE_S, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
