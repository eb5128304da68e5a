"""Text streams that may fail, by a closed pipe or a full disk, without stopping the process."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any


class FailsafeStream:
    """A text stream that discards all text after its first `error`, or if `stream` is None.

    Characters that the encoding lacks are replaced.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.error: Exception | None = None

    def _call(self, method: str, *arguments: str) -> Any:
        """Call a method of the stream, unless there is none or it has failed."""
        if self.error is not None or self._stream is None:
            return None
        try:
            return getattr(self._stream, method)(*arguments)
        except UnicodeEncodeError:
            raise
        except (OSError, ValueError) as error:  # ValueError: it is closed
            self.error = error
            return None

    def write(self, text: str) -> int:
        """Write or discard a text."""
        try:
            self._call("write", text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding
            plain = text.replace("×", "x").encode(encoding, "replace").decode(encoding)
            self._call("write", plain)
        return len(text)

    def flush(self) -> None:
        """Flush, or discard the rest."""
        self._call("flush")

    def isatty(self) -> bool:
        """Return whether the stream is a working terminal."""
        return bool(self._call("isatty"))

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
