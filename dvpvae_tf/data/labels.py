"""The labels of the data sets, in the order of their images."""

from dvpvae_tf.data.mnist5k import mnist5k_labels
from dvpvae_tf.data.omniglot import read_omniglot_labels
from dvpvae_tf.data.pipelines import SIDES, three_splits, unknown_data_set
from dvpvae_tf.data.tfds_images import read_tfds_labels
from dvpvae_tf.errors import UserError


def read_labels(name, data_dir=None, omniglot_mat=None):
    """Reads the labels of a data set, in the order of the images of `dvpvae_tf.data.pipelines.read_images`.

    They are the digits of `mnist` and `mnist5k`, the classes of `cifar10`, the alphabets of `omniglot`, which
    are only in a `chardata.mat` at hand, and the feature `label` of other TFDS data sets.

    Args:
        name: see `load_dataset`.
        data_dir: see `load_dataset`.
        omniglot_mat: see `load_dataset`.

    Returns:
        int64 arrays [N] of the training, validation and test labels.

    Raises:
        UserError: for an unknown name, a data set without labels, or data that are missing or cannot be read.
    """
    kind, _, place = name.partition(":")
    if kind == "folder" and place:
        raise UserError(f"{name} has no labels: pictures in a folder have none")
    if name == "mnist5k":
        return mnist5k_labels()
    if name == "omniglot":
        return three_splits(read_omniglot_labels(data_dir, omniglot_mat), most=1000)
    if name in SIDES or (kind == "tfds" and place):
        return three_splits(read_tfds_labels(place or name, data_dir), most=5000)
    raise unknown_data_set(name)
