"""Text streams that may fail, by a closed pipe or a full disk, without stopping the process."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any


class FailsafeStream:
    """A text stream that discards all text after its first failure.

    Characters that the encoding lacks are replaced.

    Args:
        stream: to write to; None if the process has none.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.error: Exception | None = None
        """The first failure."""

    def write(self, text: str) -> int:
        """Write or discard a text."""
        if self.error is None and self._stream is not None:
            try:
                try:
                    self._stream.write(text)
                except UnicodeEncodeError:
                    self._stream.write(_encodable(text, self._stream.encoding))
            except (OSError, ValueError) as error:  # ValueError: it is closed
                self.error = error
        return len(text)

    def flush(self) -> None:
        """Flush, or discard the rest."""
        if self.error is None and self._stream is not None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self.error = error

    def isatty(self) -> bool:
        """Return whether the stream is a working terminal."""
        try:
            return self.error is None and self._stream is not None and bool(self._stream.isatty())
        except (OSError, ValueError):
            return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def failsafe_stdout() -> FailsafeStream:
    """Wrap the current standard output."""
    return FailsafeStream(sys.stdout)


def tell(text: str) -> None:
    """Print a line for the user on standard error."""
    print(f"rlkl: {text}", file=FailsafeStream(sys.stderr), flush=True)


@contextmanager
def failsafe_streams() -> Iterator[FailsafeStream]:
    """Let standard output and standard error fail without an exception; yield standard output.

    At the end a failed stream is connected to /dev/null, so that the interpreter can exit.
    """
    _fill_closed_descriptors()
    out, err = FailsafeStream(sys.stdout), FailsafeStream(sys.stderr)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            yield out
    finally:
        for stream in (out, err):
            stream.flush()
            if stream.error is not None:
                with suppress(OSError, ValueError):
                    devnull = os.open(os.devnull, os.O_WRONLY)
                    os.dup2(devnull, stream.fileno())
                    os.close(devnull)


def _fill_closed_descriptors() -> None:
    """Open closed standard streams, so that no file of a run gets their descriptors."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor, which is this one


def _encodable(text: str, encoding: str) -> str:
    return text.replace("×", "x").encode(encoding, "replace").decode(encoding)
