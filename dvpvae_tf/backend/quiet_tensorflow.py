"""Imports TensorFlow without what its native code prints; TF_CPP_MIN_LOG_LEVEL=0 brings that back."""

import os

if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
    import tensorflow  # noqa: F401
else:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    kept = os.dup(2)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)
    try:
        import tensorflow  # noqa: F401
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(silence)
