"""The readers of data sets: how the images and the labels of each are read, and how many images validation takes.

TensorFlow Datasets takes long to import. Only the readers that need it do so.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dvpvae_tf.data.folder import labels_of_files, read_folder
from dvpvae_tf.data.mnist5k import read_mnist5k, read_mnist5k_labels


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
        image_channels: 1 or 3 for pictures of a folder in grey or colour, or None.
        labels: whether labels are read, too.
    """

    place: str
    data_dir: str | None = None
    image_size: int | None = None
    omniglot_mat: str | None = None
    background: str = "white"
    skip_broken: bool = False
    whole: bool = False
    image_channels: int | None = None
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
    """How a data set is read, and its largest validation split."""

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
    settings = request.image_size, request.background, request.skip_broken, request.whole, request.image_channels
    images, files = read_folder(request.place, *settings)
    labels, classes = labels_of_files(request.place, files) if request.labels else (None, ())
    return Contents(images, labels, classes, files)


# By the readers that `dvpvae_tf.config.datasets.find_reader` gives.
SOURCES = {
    "mnist5k": Source(_read_mnist5k),
    "omniglot": Source(_read_omniglot, most_validation=1000),
    "tfds": Source(_read_tfds),
    "folder": Source(_read_folder),
}
