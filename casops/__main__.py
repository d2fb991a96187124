"""`casops serve module:app`, `casops outcome URL ID`, `casops pending URL`; also as `python -m casops …`.

Must not be in here: anything but finding the command, and streams that take nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from casops.looking import COMMANDS, look

USAGE = """usage: casops serve MODULE:APP [options]     (casops serve --help tells more)
       casops outcome URL ID                 did it happen, and with what result?
       casops pending URL                    what was declared and has not ended
"""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    for name in ("stdout", "stderr"):  # None where it was closed before
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for as long as this process is
    if arguments[:1] == ["serve"]:
        return _serve(arguments[1:])
    try:
        try:
            return _tell(arguments)
        finally:
            sys.stdout.flush()
    except OSError as error:  # of the output: a full disk, or whoever reads has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would try again at its end
        if not isinstance(error, BrokenPipeError):
            sys.stderr.write(f"error: what there is to tell could not be written: {error}\n")
        return 1


def _tell(arguments: list[str]) -> int:
    if arguments == ["--version"]:
        sys.stdout.write(f"casops {version('casops')}\n")
        return 0
    if arguments and arguments[0] in COMMANDS:
        return look(arguments)
    asked = arguments[:1] in (["-h"], ["--help"])
    (sys.stdout if asked else sys.stderr).write(USAGE)
    return 0 if asked else 2


def _serve(arguments: list[str]) -> int:
    try:
        from casops.service.serving import serve
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] not in ("fastapi", "starlette", "uvicorn"):
            raise
        sys.stderr.write("error: serving needs more than casops itself: pip install 'casops[service]'\n")
        return 2
    return serve(arguments)


if __name__ == "__main__":
    sys.exit(main())
