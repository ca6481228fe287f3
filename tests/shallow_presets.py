"""Python code that makes presets quick to trace, to be put before snippets and notebooks that are run."""

LAYERS = 2
SHALLOW_PRESETS = f"""
from dvpvae_tf import config as _config

def _load_shallow(preset, overrides=None, load_config=_config.load_config):
    config = load_config(preset, overrides)
    smaller = {{"layers_per_scale": (1, {LAYERS - 1}), "prior_blocks": 1}}
    return config.model_copy(update={{"model": config.model.model_copy(update=smaller)}})

_config.load_config = _load_shallow
"""
