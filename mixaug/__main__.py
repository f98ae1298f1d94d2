"""``mixaug`` and ``python -m mixaug``: Ctrl-C and closed streams are seen to before anything large is imported."""

from __future__ import annotations

import os
import signal
import sys


def main() -> int:
    """Runs the command of the process, see :func:`mixaug.cli.main`.

    Returns:
        its exit code.
    """
    # What is closed is opened again, as nothing: else the next file that is opened, such as a checkpoint, would get
    # the number of standard error, and the messages of libraries.
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    from mixaug import cli

    code = cli.main(at_start=_leave)
    # What cannot be written by now never will be: without this, Python would end with 120 after a finished training.
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, stream.fileno())
    return code


def _leave(number: int, frame: object) -> None:
    # An exception would come out of the midst of an import, where libraries turn it into others or lose it.
    try:
        os.write(2, b"mixaug: interrupted\n")
    finally:
        os._exit(130)


if __name__ == "__main__":
    sys.exit(main())
