"""Text streams whose failure costs the text alone: a closed pipe, a full disk, no terminal."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any


class SteadyStream:
    """A text stream that drops what it cannot write.

    After the first failure it drops everything. Characters that its encoding lacks are replaced.

    Args:
        stream: written to; None where the process has none.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.error: Exception | None = None
        """What failed first."""

    def write(self, text: str) -> int:
        """Write, or drop."""
        if self.error is None and self._stream is not None:
            try:
                try:
                    self._stream.write(text)
                except UnicodeEncodeError:
                    self._stream.write(_spelled(text, self._stream.encoding))
            except (OSError, ValueError) as error:  # the latter where it is closed
                self.error = error
        return len(text)

    def flush(self) -> None:
        """Flush, or drop what is left."""
        if self.error is None and self._stream is not None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self.error = error

    def isatty(self) -> bool:
        """Return whether a terminal shows what is written."""
        try:
            return self.error is None and self._stream is not None and bool(self._stream.isatty())
        except (OSError, ValueError):
            return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def steady_stdout() -> SteadyStream:
    """Return standard output as it is now, without its failures."""
    return SteadyStream(sys.stdout)


def tell(text: str) -> None:
    """Print a line for the user on standard error, if there is one."""
    print(f"rlkl: {text}", file=SteadyStream(sys.stderr), flush=True)


@contextmanager
def steady_streams() -> Iterator[SteadyStream]:
    """Let standard output and standard error of this process fail without an exception.

    At the end, a stream that failed leads to nowhere, so the interpreter does not fail again.

    Yields:
        Standard output, which says how it failed.
    """
    _fill_closed_descriptors()
    out, err = SteadyStream(sys.stdout), SteadyStream(sys.stderr)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            yield out
    finally:
        for stream in (out, err):
            stream.flush()
            if stream.error is not None:
                with suppress(OSError, ValueError):
                    nowhere = os.open(os.devnull, os.O_WRONLY)
                    os.dup2(nowhere, stream.fileno())
                    os.close(nowhere)


def _fill_closed_descriptors() -> None:
    """Open standard streams that are closed, so no file of a run gets their descriptor."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free, which is this one


def _spelled(text: str, encoding: str) -> str:
    return text.replace("×", "x").encode(encoding, "replace").decode(encoding)
