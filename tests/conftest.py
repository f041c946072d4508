"""What every test stands on: BLAS on one thread, so answers repeat to the bit; no plans of earlier runs; in CI equal examples."""

import os

for library in ("OPENBLAS", "OMP", "MKL", "NUMEXPR"):
    os.environ[f"{library}_NUM_THREADS"] = "1"  # before NumPy is imported, and for every process that a test starts
os.environ["GRADWIRE_PLAN_FOLDER_BYTES"] = "0"

from hypothesis import settings

settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")
