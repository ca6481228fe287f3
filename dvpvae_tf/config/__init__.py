"""Settings: typed classes, presets in YAML, and the command line of training."""

from dvpvae_tf.config.datasets import DEFAULT_DATASET, NAMED_DATASETS
from dvpvae_tf.config.default_model import default_model
from dvpvae_tf.config.presets import (
    find_preset,
    list_presets,
    load_config,
    read_yaml,
    search_space_file,
    settings_as_yaml,
    write_config,
)
from dvpvae_tf.config.schedules import ema_momentum_for, learning_rate_at
from dvpvae_tf.config.settings import DataConfig, ModelConfig, TrainConfig
from dvpvae_tf.config.strict import StrictSettings, merge, validate

__all__ = [
    "DEFAULT_DATASET",
    "NAMED_DATASETS",
    "DataConfig",
    "ModelConfig",
    "StrictSettings",
    "TrainConfig",
    "default_model",
    "ema_momentum_for",
    "find_preset",
    "learning_rate_at",
    "list_presets",
    "load_config",
    "merge",
    "read_yaml",
    "search_space_file",
    "settings_as_yaml",
    "validate",
    "write_config",
]
