"""Mistakes that the user can put right, and how commands tell them."""

import contextlib
import sys


class UserError(ValueError):
    """A mistake that the user can put right, told in one line that says how."""


@contextlib.contextmanager
def told_in_one_line():
    """Turns a `UserError` into one line on standard error and exit code 2; for commands.

    Raises:
        SystemExit: with code 2, in place of a `UserError`; with 130 where the user pressed Ctrl-C.
    """
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
