"""The ``mixaug`` command. Each subcommand is a module of ``mixaug.commands``, imported when it runs."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from mixaug._terminal import INTERRUPTED, WRONG_INPUT, printable, tell

#: Subcommand, module, one line of help. The modules have ``arguments(parser)`` and ``run(options) -> int``.
COMMANDS = (
    ("demo", "demo", "standard training against IPMix on real images in the package, with a report"),
    ("preview", "preview", "a before/after grid with labels and operation names"),
    ("train", "train", "train a classifier with one of the methods"),
    ("evaluate", "evaluate", "the report of one or more checkpoints: table, JSON, HTML with pictures"),
    ("mixing-set", "mixing_set", "make synthetic pictures into a folder"),
    ("info", "info", "versions, devices, which compiled parts are active and why not"),
)


def main(argv: Sequence[str] | None = None, at_start: Callable[[int, Any], None] | None = None) -> int:
    """Runs one command.

    Args:
        argv: arguments without the program's name; None: those of the process.
        at_start: what Ctrl-C is handled with, in the place of its own handler, until the command and the libraries it
            needs are imported; the program gives one that ends it at once. None: nothing is changed.

    Returns:
        the exit code: 0 done, 2 wrong input, a full disk or a worker that died (the reason in one line on stderr), 130
        interrupted by Ctrl-C or SIGTERM.

    Example:
        >>> main(["evaluate", "/nowhere.pt"])
        2
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(
        prog="mixaug", description="Mixing augmentations that make image classifiers accurate and robust."
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="command")
    modules = {}
    for name, module, summary in COMMANDS:
        sub = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        modules[name] = module
        # Only the command that runs is imported: `mixaug --help` needs no torch.
        if name in argv[:1]:
            importlib.import_module(f"mixaug.commands.{module}").arguments(sub)
    options = parser.parse_args(argv)
    if options.version:
        from importlib.metadata import version

        sys.stdout.write(f"mixaug {version('mixaug')}\n")
        return 0
    if options.command is None:
        parser.print_help()
        return 0
    command = importlib.import_module(f"mixaug.commands.{modules[options.command]}")
    try:
        for needed in getattr(command, "NEEDS", ()):
            importlib.import_module(needed)
        if at_start is not None and signal.getsignal(signal.SIGINT) is at_start:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return int(command.run(options))
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError) as error:
        # Wrong input in one line; a traceback would hide it. A bug in mixaug is another kind of error and shows whole.
        # Of an error that names its file in its own words, the words alone, without the system's number before them.
        own = isinstance(error, OSError) and error.filename is None and error.strerror
        tell(f"mixaug {options.command}: {printable(str(own or error))}\n")
        return WRONG_INPUT
    except KeyboardInterrupt:
        tell(f"mixaug {options.command}: interrupted\n")
        return INTERRUPTED
