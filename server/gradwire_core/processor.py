"""What kind of processor this is. Nothing else may live here."""

from __future__ import annotations

import functools
import hashlib
import platform
from pathlib import Path


@functools.cache
def processor() -> str:
    """Return the name of the processor and, where it is told, a digest of its instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0].splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}".strip()
    told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    features = told.get("flags") or told.get("Features") or ""
    return f"{platform.machine()} {told.get('model name', '')} {hashlib.sha256(features.encode()).hexdigest()[:8]}"
