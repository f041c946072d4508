"""What Ray itself warns of; everything else is an error here as well."""

from __future__ import annotations

import pytest

RAY_WARNINGS = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray.*"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of the pipes of processes that Ray starts
]
