"""dvpvae_tf: the hierarchical VAE with a diffusion-based VampPrior (Kuzina & Tomczak, TMLR 2024) in Keras 3.

Importing it registers every class that a saved model may hold, and so imports TensorFlow. Commands, such as
`python -m dvpvae_tf.train`, import TensorFlow later: after they have parsed their options.
"""

import sys
from pathlib import Path
from typing import Any

from dvpvae_tf.backend import choose_tensorflow  # noqa: F401

__version__ = "0.1.0"


def _runs_command() -> bool:
    """Whether this process is a command: `python -m dvpvae_tf.<command>` or `dvpvae <command>`."""
    program = sys.argv[0] if sys.argv else ""
    if program == "-m":  # Python's placeholder, until it has imported this package and found the module in it
        return any(word.split(".")[0] == __name__ for word in sys.orig_argv)
    return Path(program).stem == "dvpvae"


if _runs_command():

    def __getattr__(name: str) -> Any:
        if name in __all__:
            from dvpvae_tf import api

            return getattr(api, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

else:
    from dvpvae_tf.api import DVPVAE, Adamax, FusedAdamax, build_model, load_dataset, load_model

__all__ = ["Adamax", "DVPVAE", "FusedAdamax", "build_model", "load_dataset", "load_model"]
