"""The data sets by name: how the images and the labels of each are read, and how many images validation takes.

TensorFlow Datasets takes long to import. Only the readers that need it do so.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dvpvae_tf.config.settings import NAMED_DATASETS
from dvpvae_tf.data.folder import labels_of_files, read_folder
from dvpvae_tf.data.mnist5k import read_mnist5k, read_mnist5k_labels
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
        labels: whether labels are read, too.
    """

    place: str
    data_dir: str | None = None
    image_size: int | None = None
    omniglot_mat: str | None = None
    background: str = "white"
    skip_broken: bool = False
    whole: bool = False
    labels: bool = False


class Contents(NamedTuple):
    """What a data set holds: dicts from `train` and, where it has them, `validation` and `test`.

    Attributes:
        images: uint8 arrays `[N, H, W, C]`.
        labels: int64 arrays `[N]`; None where they were not asked for.
        classes: the names of the labels 0, 1, ...; none where they are mere numbers.
        files: lists of N paths in the folder of the pictures; None for other data.
    """

    images: dict[str, np.ndarray]
    labels: dict[str, np.ndarray] | None = None
    classes: tuple[str, ...] = ()
    files: dict[str, list[str]] | None = None


class Source(NamedTuple):
    """One row of the table: how a data set is read, and its largest validation split."""

    read: Callable[[Request], Contents]
    most_validation: int = 5000


def _read_mnist5k(request: Request) -> Contents:
    return Contents(read_mnist5k(), read_mnist5k_labels() if request.labels else None)


def _read_tfds(request: Request) -> Contents:
    from dvpvae_tf.data import omniglot, tfds_images  # noqa: F401  the first makes `omniglot28` known to TFDS

    # Labels first: where there are none, no images are read.
    labels, classes = tfds_images.read_tfds_labels(request.place, request.data_dir) if request.labels else (None, ())
    return Contents(tfds_images.read_tfds(request.place, request.data_dir, request.image_size), labels, classes)


def _read_omniglot(request: Request) -> Contents:
    from dvpvae_tf.data.omniglot import read_omniglot, read_omniglot_labels

    place = request.data_dir, request.omniglot_mat
    labels = read_omniglot_labels(*place) if request.labels else None
    return Contents(read_omniglot(*place), labels)


def _read_folder(request: Request) -> Contents:
    settings = request.image_size, request.background, request.skip_broken, request.whole
    images, files = read_folder(request.place, *settings)
    labels, classes = labels_of_files(request.place, files) if request.labels else (None, ())
    return Contents(images, labels, classes, files)


TFDS = Source(_read_tfds)
# The shapes of their images are in `dvpvae_tf.config.settings.NAMED_DATASETS`, which needs no TensorFlow.
NAMED = {
    "mnist5k": Source(_read_mnist5k),
    "mnist": TFDS,
    "omniglot": Source(_read_omniglot, most_validation=1000),
    "cifar10": TFDS,
}
KINDS = {"tfds": TFDS, "folder": Source(_read_folder)}


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
