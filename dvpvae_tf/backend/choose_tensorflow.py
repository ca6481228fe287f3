"""Makes Keras compute with TensorFlow, the only backend that this library works with. Imported before Keras is."""

import os
import sys

if "keras" not in sys.modules:
    os.environ["KERAS_BACKEND"] = "tensorflow"
elif (backend := sys.modules["keras"].config.backend()) != "tensorflow":
    raise ImportError(
        f"dvpvae_tf needs the backend tensorflow of Keras, which was imported with {backend}: "
        "set the environment variable KERAS_BACKEND=tensorflow, or import dvpvae_tf first"
    )
