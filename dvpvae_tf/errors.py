"""Errors that a user can put right, and how a command ends on them."""

import contextlib
import difflib
import errno
import io
import os
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn, TextIO

DISK_IS_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# What the system refuses to do with a file. The message of the system names it.
REFUSED = {errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE, *DISK_IS_FULL}
MEMORY_IS_FULL = (
    "the memory is full: compute less at a time with a smaller --batch-size (in a training also with "
    "--gradient-accumulation 2 or --remat), or end other programs"
)


class UserError(ValueError):
    """A mistake that the user can put right. The message is one line that says how."""


class WorkerLost(RuntimeError):
    """Another machine of a job failed. The user made no mistake, and the same command goes on."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Suggests a known word for a misspelt one.

    Args:
        word: the misspelt word.
        known: the words that it may be.

    Returns:
        `" (did you mean ...?)"`, or `""` where no known word is similar.
    """
    matches = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {matches[0]}?)" if matches else ""


def list_some(words: Sequence[str], most: int = 10) -> str:
    """Lists words for a message, the first ones alone where they are many.

    Args:
        words: the words.
        most: how many are listed.

    Returns:
        Such as `"cat, dog"`, or `"a, b and 98 more"`.
    """
    rest = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + rest


def first_line(error: BaseException) -> str:
    """Shortens another library's error for a message of one line.

    Args:
        error: an exception.

    Returns:
        The first line of its text, or the name of its type where it has none.
    """
    return (str(error).splitlines() or [type(error).__name__])[0]


def one_line(error: BaseException) -> str:
    """Joins the lines of another library's error for a message of one line.

    Args:
        error: an exception.

    Returns:
        At most 400 characters.
    """
    return textwrap.shorten(str(error), 400)


def full_disk_in(error: BaseException) -> str | None:
    """Finds out whether a full disk caused an error. TensorFlow's errors say so in their text alone.

    Args:
        error: an exception.

    Returns:
        The system's message, such as "No space left on device"; None for another error.
    """
    return next((os.strerror(number) for number in DISK_IS_FULL if os.strerror(number) in str(error)), None)


@contextlib.contextmanager
def exit_on_error(on_interrupt: str = "") -> Iterator[None]:
    """Ends a command with one line on standard error, without a traceback: the decorator of each command's `main`.

    It also lets the command print where standard output or error is closed, where their encoding lacks a character
    (`?` stands for it), and where nobody reads standard output any more (`command | head`): the command does its work.

    Args:
        on_interrupt: what the user can do after Ctrl-C, such as "the same command goes on".

    Raises:
        SystemExit: with code 2 for a `UserError`, a file that the system refuses, a full disk or a full memory, 1 for a
            `WorkerLost`, 130 for Ctrl-C.
    """
    _open_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):  # not so in a notebook
        sys.stdout.reconfigure(errors="replace")
    try:
        with contextlib.redirect_stdout(_UnreadOutput(sys.stdout)):
            try:
                yield
            finally:
                sys.stdout.flush()
    except UserError as error:
        _exit(2, f"error: {error}")
    except WorkerLost as error:
        _exit(1, f"error: {error}")
    except KeyboardInterrupt:
        _exit(130, "interrupted" + (f": {on_interrupt}" if on_interrupt else ""))
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        _exit(2, f"error: {error.filename or 'the output'}: {error.strerror}")
    except Exception as error:
        # TensorFlow's error is known by its name: this module is there before TensorFlow is.
        if not isinstance(error, MemoryError) and type(error).__name__ != "ResourceExhaustedError":
            raise
        _exit(2, f"error: {full_disk_in(error) or MEMORY_IS_FULL}")  # TensorFlow has one type for both


class _UnreadOutput:
    """A stream that drops what is written to it once its reader has left."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            _drop(self._stream)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            _drop(self._stream)


def _drop(stream: TextIO) -> None:
    """Lets what is written, and what Python flushes at exit, vanish."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _open_closed_streams() -> None:
    """Python sets a stream to None where its file was closed at the start; Keras would fail to print to it."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (open until the process ends)


def _exit(code: int, message: str) -> NoReturn:
    print(message, file=_UnreadOutput(sys.stderr), flush=True)
    sys.exit(code)
