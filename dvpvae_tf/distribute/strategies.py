"""The distribution strategies of training."""

import tensorflow as tf

from dvpvae_tf.distribute import workers
from dvpvae_tf.distribute.devices import device_names
from dvpvae_tf.errors import UserError


def make_strategy(config):
    """Gives the distribution strategy of a config: one device, all of this machine, or all of those in `TF_CONFIG`.

    The batch size is that of all devices together: each takes an equal part of every batch. The learning rate is the
    config's, however many devices there are: at the same batch size they train as one does. All machines must have the
    same number of devices.

    Args:
        config: `TrainConfig`, or what else has its `strategy` and `batch_size`.

    Returns:
        A `tf.distribute.Strategy`. With "multiworker", it is made when all machines are there, and must be made before
        TensorFlow is used for anything else.

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


def _check_batch_size(config, devices):
    if config.batch_size % devices:
        raise UserError(f"--batch-size {config.batch_size} cannot be shared out evenly to {devices} devices.")
