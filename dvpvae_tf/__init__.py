"""dvpvae_tf: the hierarchical VAE with a diffusion-based VampPrior (Kuzina & Tomczak, TMLR 2024) in Keras 3.

Importing it registers every class that a saved model may hold, and so imports TensorFlow. Only commands, such as
`python -m dvpvae_tf.train`, import TensorFlow later: after they have parsed their options.
"""

import contextlib
import sys
from pathlib import Path
from typing import Any

from dvpvae_tf import tensorflow_backend  # noqa: F401
from dvpvae_tf.errors import exit_on_error

__version__ = "0.1.0"
# The commands that import TensorFlow after they have parsed their options.
COMMANDS = ("train", "tune", "reproduce", "convert", "export", "serve")


def _command() -> str | None:
    """The command that this process runs, as `python -m dvpvae_tf.<command>` or `dvpvae <command>`; None for others."""
    program = sys.argv[0] if sys.argv else ""
    if program == "-m":  # Python's placeholder, until it has imported this package and found the module in it
        modules = [word for word in sys.orig_argv if word.split(".")[0] == __name__]
        return modules[0].removeprefix(f"{__name__}.") if modules else None
    return "dvpvae" if Path(program).stem == "dvpvae" else None


if _command() in (*COMMANDS, "dvpvae", __name__):

    def __getattr__(name: str) -> Any:
        if name in __all__:
            from dvpvae_tf import api

            return getattr(api, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

else:
    with exit_on_error() if _command() else contextlib.nullcontext():  # Ctrl-C gives no traceback, here either
        from dvpvae_tf.api import DVPVAE, Adamax, build_model, load_dataset, load_model

__all__ = ["Adamax", "DVPVAE", "build_model", "load_dataset", "load_model"]
