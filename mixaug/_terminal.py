"""What goes to a terminal: text without control characters, to a stream that may be closed or full."""

from __future__ import annotations

import sys
import unicodedata
from typing import Any, TextIO

# Joiners are letters of a word in Persian, Hindi and others; all other format characters can hide or turn text.
_JOINERS = "\u200c\u200d"


def printable(text: str) -> str:
    r"""``text`` with control, bidirectional and undecodable characters written out: a name changes no terminal.

    Example:
        >>> print(printable("a\x1b[2Jb\r\u202ecafé"))
        a\x1b[2Jb\r\u202ecafé
    """
    if text.isprintable():
        return text
    return "".join(
        repr(each)[1:-1]
        if unicodedata.category(each) in ("Cc", "Cf", "Cs", "Zl", "Zp") and each not in _JOINERS
        else each
        for each in text
    )


class QuietStream:
    """A text stream that falls silent, for good, where the one below is closed, full or missing.

    Args:
        stream: to write to; None is one that was closed when Python started.

    Example:
        >>> import io
        >>> closed = io.StringIO()
        >>> closed.close()
        >>> QuietStream(closed).write("lost")
        4
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.encoding: str = getattr(stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Writes, if it can be."""
        if self._stream is not None:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:  # an encoding without these letters
                return self.write(text.encode("ascii", "backslashreplace").decode())
            except (OSError, ValueError):
                self._stream = None
        return len(text)

    def flush(self) -> None:
        """Flushes, if it can be."""
        if self._stream is not None:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                self._stream = None

    def isatty(self) -> bool:
        """Whether it is a terminal that can be written to."""
        try:
            return self._stream is not None and self._stream.isatty()
        except ValueError:
            return False

    def fileno(self) -> int:
        """The descriptor, for programs that ask for the terminal's size."""
        if self._stream is None:
            raise OSError("the stream is closed")
        return self._stream.fileno()


def quiet(stream: Any) -> TextIO:
    """The stream as a :class:`QuietStream`.

    Args:
        stream: a text stream; None for one that is closed.
    """
    return QuietStream(stream)  # type: ignore[return-value]


def tell(text: str) -> None:
    """Writes to standard error, if it is open.

    Args:
        text: what to say, with its line ends.
    """
    stream = quiet(sys.stderr)
    stream.write(text)
    stream.flush()


#: Exit codes: 0 done, 2 not done, for the reason in one line; 130 interrupted (as shells do for Ctrl-C).
WRONG_INPUT, INTERRUPTED = 2, 130


def progress_bar(*columns: Any, stream: Any = None, transient: bool = True, anywhere: bool = False) -> Any:
    """A bar of rich, not started, that ends without an error where its stream does.

    Args:
        columns: of rich.
        stream: None: standard error.
        transient: it is wiped away at the end.
        anywhere: show it also where there is no terminal.

    Raises:
        ImportError: rich is missing.
    """
    from mixaug._checks import optional_import  # it imports torch, which `mixaug --help` has no need of

    console = optional_import("rich.console").Console(file=quiet(sys.stderr if stream is None else stream))
    return optional_import("rich.progress").Progress(
        *columns,
        console=console,
        transient=transient,
        disable=not (anywhere or console.is_terminal or console.is_jupyter),
    )
