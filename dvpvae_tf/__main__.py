"""The command `dvpvae <command>`: the same as `python -m dvpvae_tf.<command>`."""

import importlib
import sys
from collections.abc import Sequence

from dvpvae_tf.errors import UserError, did_you_mean, exit_on_error

COMMANDS = {
    "train": "train a model on a data set",
    "tune": "search for better settings",
    "fit_prior": "give a trained model a better prior over u",
    "evaluate": "estimate log p(x) and more of a model",
    "sample": "draw images from a model",
    "reconstruct": "reconstruct and interpolate images",
    "encode": "write the latents of images",
    "decode": "make images from latents",
    "inpaint": "draw the missing pixels of a picture",
    "score": "tell how probable and how typical each image is",
    "export": "write a model for serving",
    "serve": "serve an exported model over HTTP",
    "client": "ask a server for images",
    "merge": "join what the shards of a job have left",
    "convert": "convert a PyTorch checkpoint of the authors",
    "reproduce": "run a table or figure of the paper",
}


@exit_on_error()
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command that the first argument names with the other arguments.

    Args:
        argv: command-line arguments; None takes `sys.argv[1:]`.

    Raises:
        SystemExit: with code 2 and one line on standard error, for an unknown command or a mistake in its options.
    """
    command, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if command in ("-h", "--help"):
        print("usage: dvpvae COMMAND [options]; dvpvae COMMAND --help lists the options\n")
        print("\n".join(f"  {name:12} {text}" for name, text in COMMANDS.items()))
    elif command in COMMANDS:
        importlib.import_module(f"dvpvae_tf.{command}").main(arguments)
    else:
        hint = did_you_mean(command, COMMANDS) or f": give one of {', '.join(COMMANDS)}"
        raise UserError(f"unknown command {command}{hint}")


if __name__ == "__main__":
    main()
