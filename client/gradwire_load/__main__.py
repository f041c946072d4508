"""`gradwire load`: run a scenario, list those that are shipped, show one, or draw the report of a result again."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Load a server and measure it; return the exit code."""
    try:
        from gradwire_load.command import run
    except ModuleNotFoundError as error:
        print(f"gradwire load: needed its own packages, got no {error.name}; pip install 'gradwire[load]'", file=sys.stderr)
        return 2
    return run(sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    sys.exit(main())
