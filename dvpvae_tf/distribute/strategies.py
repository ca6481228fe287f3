"""The distribution strategies of training."""

import tensorflow as tf

from dvpvae_tf.config import DataConfig
from dvpvae_tf.distribute import workers
from dvpvae_tf.distribute.devices import device_names
from dvpvae_tf.errors import UserError


def make_strategy(config: DataConfig) -> tf.distribute.Strategy:
    """Makes the strategy that a config names: one device, all of this machine, or all machines of `TF_CONFIG`.

    The batch size counts the images of all devices together, and each device takes an equal part of every batch. The
    learning rate does not depend on the number of devices: at the same batch size they train as one does. All machines
    must have the same number of devices.

    Args:
        config: the settings of the data or of a run.

    Returns:
        The strategy. "multiworker" waits until all machines are there, and must come before TensorFlow is used for
        anything else.

    Raises:
        UserError: if the batch cannot be shared out evenly, or the machines cannot be connected.
    """
    if config.strategy == "single":
        return tf.distribute.get_strategy()
    if config.strategy == "multiworker":
        # Logical devices cannot be listed here: that would use TensorFlow before the machines are connected.
        gpus = tf.config.list_physical_devices("GPU")
        _check_batch_size(config, max(1, len(gpus)) * workers.cluster_size())
        return workers.connect()
    devices = device_names()
    _check_batch_size(config, len(devices))
    return tf.distribute.MirroredStrategy(devices)


def _check_batch_size(config: DataConfig, devices: int) -> None:
    if config.batch_size % devices:
        raise UserError(f"--batch-size {config.batch_size} cannot be shared out evenly to {devices} devices.")
