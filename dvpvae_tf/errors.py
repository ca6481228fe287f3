"""Mistakes that the user can put right, and how commands tell them."""

import contextlib
import difflib
import sys


class UserError(ValueError):
    """A mistake that the user can put right, told in one line that says how."""


class WorkerLost(RuntimeError):
    """Another machine of a job has failed: no mistake of the user, and the same command goes on."""


def did_you_mean(word, known):
    """Suggests what a misspelt word was meant to be.

    Args:
        word: str.
        known: iterable of str, what it may be.

    Returns:
        str, " (did you mean ...?)", or nothing where no word is similar.
    """
    matches = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {matches[0]}?)" if matches else ""


@contextlib.contextmanager
def told_in_one_line():
    """Turns a `UserError` into one line on standard error and exit code 2; for commands.

    Raises:
        SystemExit: with code 2, in place of a `UserError`; with 1 for a `WorkerLost`; with 130 where the user pressed
            Ctrl-C.
    """
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except WorkerLost as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
