"""The command line parser of all commands."""

import argparse
import os
from pathlib import Path
from typing import Any, NoReturn

from dvpvae_tf.errors import UserError, did_you_mean


class Parser(argparse.ArgumentParser):
    """An `argparse` parser whose mistakes are `UserError`s.

    Args:
        command: the name of the module: `python -m dvpvae_tf.<command>`.
        description: what the command does.
        **kwargs: passed to `argparse.ArgumentParser`.
    """

    def __init__(self, command: str, description: str, **kwargs: Any):
        super().__init__(
            prog=f"python -m dvpvae_tf.{command}",
            description=description,
            **kwargs,
            allow_abbrev=False,
            formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=36, width=110),
        )
        # In --output=~/runs the shell leaves the ~ to us.
        self.register("type", Path, lambda text: Path(os.path.expanduser(text)))

    def error(self, message: str) -> NoReturn:
        """Reports a mistake.

        Args:
            message: what `argparse` has found.

        Raises:
            UserError: always.
        """
        if message.startswith("unrecognized arguments: "):
            unknown = message.removeprefix("unrecognized arguments: ").split()[0].split("=")[0]
            message = f"unknown option {unknown}{did_you_mean(unknown, self._option_string_actions)}"
        raise UserError(f"{message} (--help lists all options)")
