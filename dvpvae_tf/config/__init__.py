"""Settings: typed classes, presets in YAML, and the options of training."""

from dvpvae_tf.config.settings import (
    DataConfig,
    ModelConfig,
    TrainConfig,
    default_model,
    ema_momentum_for,
    learning_rate_at,
    list_presets,
    load_config,
    settings_as_yaml,
    write_config,
)

__all__ = [
    "DataConfig",
    "ModelConfig",
    "TrainConfig",
    "default_model",
    "ema_momentum_for",
    "learning_rate_at",
    "list_presets",
    "load_config",
    "settings_as_yaml",
    "write_config",
]
