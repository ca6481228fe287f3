"""The data sets by name: how the images and the labels of each are read, and how many images validation takes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dvpvae_tf.config.settings import NAMED_DATASETS
from dvpvae_tf.data.folder import read_folder, read_folder_labels
from dvpvae_tf.data.mnist5k import read_mnist5k, read_mnist5k_labels
from dvpvae_tf.data.omniglot import read_omniglot, read_omniglot_labels
from dvpvae_tf.data.tfds_images import read_tfds, read_tfds_labels
from dvpvae_tf.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Request:
    """The arguments of all readers of data sets; each reader uses those it needs.

    Args:
        place: the name in TFDS, or the folder.
        data_dir: see `dvpvae_tf.data.load_dataset`, as for all that follow.
        image_size: side in pixels, or None.
        omniglot_mat: path of a `chardata.mat`, or None.
        background: colour under transparent pictures.
        skip_broken: leaves out pictures that cannot be read.
        whole: a folder without split subfolders is not split.
    """

    place: str
    data_dir: str | None = None
    image_size: int | None = None
    omniglot_mat: str | None = None
    background: str = "white"
    skip_broken: bool = False
    whole: bool = False


Splits = dict[str, np.ndarray]  # `train` and, where a data set has them, `validation` and `test`


class Source(NamedTuple):
    """One row of the table: two readers whose arrays are in the same order, and the largest validation split."""

    read_images: Callable[[Request], Splits]
    read_labels: Callable[[Request], Splits]
    most_validation: int = 5000


TFDS = Source(
    lambda request: read_tfds(request.place, request.data_dir, request.image_size),
    lambda request: read_tfds_labels(request.place, request.data_dir),
)
FOLDER = Source(
    lambda request: read_folder(
        request.place, request.image_size, request.background, request.skip_broken, request.whole
    ),
    lambda request: read_folder_labels(request.place, request.skip_broken, request.whole),
)
# The shapes of their images are in `dvpvae_tf.config.settings.NAMED_DATASETS`, which needs no TensorFlow.
NAMED = {
    "mnist5k": Source(lambda _: read_mnist5k(), lambda _: read_mnist5k_labels()),
    "mnist": TFDS,
    "omniglot": Source(
        lambda request: read_omniglot(request.data_dir, request.omniglot_mat),
        lambda request: read_omniglot_labels(request.data_dir, request.omniglot_mat),
        most_validation=1000,
    ),
    "cifar10": TFDS,
}
KINDS = {"tfds": TFDS, "folder": FOLDER}


def find_source(name: str) -> tuple[Source, str]:
    """Looks a data set up.

    Args:
        name: see `dvpvae_tf.data.load_dataset`.

    Returns:
        How it is read, and its name in TFDS or its folder.

    Raises:
        UserError: if there is no such data set.
    """
    if name in NAMED:
        return NAMED[name], name
    kind, _, place = name.partition(":")
    if kind in KINDS and place:
        return KINDS[kind], place
    choices = ", ".join((*NAMED, "tfds:NAME", "folder:PATH"))
    raise UserError(f"unknown data set {name}{did_you_mean(name, NAMED)}: give one of {choices}")


def check_image_size(name: str, image_size: int | None) -> None:
    """Checks that a named data set is not asked for in another size.

    Args:
        name: see `dvpvae_tf.data.load_dataset`.
        image_size: side in pixels, or None.

    Raises:
        UserError: if it is.
    """
    if name in NAMED_DATASETS and image_size not in (None, side := NAMED_DATASETS[name].image_size):
        raise UserError(f"image_size is {image_size}, but images of {name} have side {side}")
