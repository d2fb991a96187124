"""`casops serve module:app` and `python -m casops serve module:app`.

Must not be in here: anything but finding the command.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version

USAGE = "usage: casops serve MODULE:APP [options]     (casops serve --help tells more)\n"


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments == ["--version"]:
        sys.stdout.write(f"casops {version('casops')}\n")
        return 0
    if arguments[:1] != ["serve"]:
        asked = arguments[:1] in (["-h"], ["--help"])
        (sys.stdout if asked else sys.stderr).write(USAGE)
        return 0 if asked else 2
    try:
        from casops.service.serving import serve
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] not in ("fastapi", "starlette", "uvicorn"):
            raise
        sys.stderr.write("error: serving needs more than casops itself: pip install 'casops[service]'\n")
        return 2
    return serve(arguments[1:])


if __name__ == "__main__":
    sys.exit(main())
