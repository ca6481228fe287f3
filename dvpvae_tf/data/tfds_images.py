"""Image data sets of TensorFlow Datasets (TFDS)."""

import difflib
import sys
from collections.abc import Iterable
from urllib.parse import urlsplit

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image, ImageOps

from dvpvae_tf.data.network import reachable
from dvpvae_tf.errors import UserError, one_line


def read_tfds(name: str, data_dir: str | None = None, image_size: int | None = None) -> dict[str, np.ndarray]:
    """Reads the images of a TFDS data set, after downloading and preparing it where that is still to be done.

    Args:
        name: name of the data set in TFDS, such as `mnist` or `name/config:version`.
        data_dir: TFDS's data_dir, or None for its default.
        image_size: side in pixels to crop and resize the images to, or None to keep them as they are.

    Returns:
        A dict from `train` and, where the data set has them, `validation` and `test` to uint8 arrays
        [N, H, W, C].

    Raises:
        UserError: if there is no such data set, it is not at hand and cannot be fetched, it has no 8-bit
            images or no training split, or its images are not squares of one size and `image_size` is None.
    """
    builder = _find_builder(name, data_dir)
    new_side = _side_to_resize_to(builder, image_size)
    prepare(builder, _remedy(builder, name))
    if new_side is not None:
        print(f"{name}: images cropped to squares and resized to {new_side} x {new_side}", file=sys.stderr)
    return read_splits(builder, new_side)


def read_tfds_labels(name: str, data_dir: str | None = None) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Reads the labels of a TFDS data set in the order of the images of `read_tfds`.

    Args:
        name: see `read_tfds`.
        data_dir: see `read_tfds`.

    Returns:
        A dict with the keys of `read_tfds` to int64 arrays [N]; and the names of the labels 0, 1, ..., none where
        they are mere numbers.

    Raises:
        UserError: if there is no such data set, it is not at hand and cannot be fetched, or it has no feature
            `label` of integers or no training split.
    """
    builder = _find_builder(name, data_dir)
    feature = dict(builder.info.features).get("label")
    if feature is None or feature.shape != () or not np.issubdtype(feature.np_dtype, np.integer):
        raise UserError(f"the TFDS data set {builder.name} has no feature `label` of whole numbers")
    prepare(builder, _remedy(builder, name))
    names = tuple(getattr(feature, "names", None) or ())
    classes = () if names == tuple(map(str, range(len(names)))) else names
    return {split: _read_labels(builder, split) for split in _splits(builder)}, classes


def _remedy(builder: tfds.core.DatasetBuilder, name: str) -> str:
    return (
        f"where there is a network run `python -c \"import tensorflow_datasets as t; t.load('{name}')\"` "
        f"and copy the folder ~/tensorflow_datasets/{builder.name} it makes into {builder.data_dir_root}"
    )


def prepare(builder: tfds.core.DatasetBuilder, remedy: str, urls: Iterable[str] | None = None) -> None:
    """Downloads and prepares a data set unless it is prepared already.

    Args:
        builder: a `tfds.core.DatasetBuilder`.
        remedy: what the user can do where it cannot be fetched.
        urls: the addresses it downloads from; by default those that TFDS has checksums of.

    Raises:
        UserError: if it cannot be fetched or prepared.
    """
    if builder.data_path.exists():
        return
    failure = f"{builder.name} is not in {builder.data_dir_root} and cannot be fetched"
    remedy = f"{remedy}; or use the data set mnist5k, which needs nothing"
    urls = urls or builder.url_infos or ()
    hosts = {urlsplit(url).netloc: url for url in urls if url.startswith("http")}
    if hosts and not any(reachable(url) for url in hosts.values()):  # TFDS would retry for minutes
        raise UserError(f"{failure}, as there is no network to {' or '.join(hosts)}: {remedy}")
    try:
        builder.download_and_prepare()
    except UserError:
        raise
    except Exception as error:  # each builder's own code, and every way a download can fail
        raise UserError(f"{failure} ({one_line(error)}): {remedy}") from error


def read_splits(builder: tfds.core.DatasetBuilder, new_side: int | None = None) -> dict[str, np.ndarray]:
    """Reads the images of a prepared data set.

    Args:
        builder: a `tfds.core.DatasetBuilder` with a feature `image`.
        new_side: side in pixels to crop and resize the images to, or None to keep them as they are.

    Returns:
        As `read_tfds`.

    Raises:
        UserError: if there is no training split.
    """
    return {split: _read_split(builder, split, new_side) for split in _splits(builder)}


def _splits(builder: tfds.core.DatasetBuilder) -> list[str]:
    splits = [split for split in ("train", "validation", "test") if split in builder.info.splits]
    if "train" not in splits:
        raise UserError(f"the TFDS data set {builder.name} has no split `train`")
    return splits


def _read_split(builder: tfds.core.DatasetBuilder, split: str, new_side: int | None) -> np.ndarray:
    images = builder.as_dataset(split=split).map(lambda example: example["image"])
    if new_side is None:
        return np.concatenate(list(images.batch(1000).as_numpy_iterator()))
    return np.stack([_crop_and_resize(image, new_side) for image in images.as_numpy_iterator()])


def _read_labels(builder: tfds.core.DatasetBuilder, split: str) -> np.ndarray:
    examples = builder.as_dataset(split=split, decoders=tfds.decode.PartialDecoding({"label": True}))
    labels = [batch["label"] for batch in examples.batch(1000).as_numpy_iterator()]
    return np.concatenate(labels).astype(np.int64)


def _crop_and_resize(image: np.ndarray, side: int) -> np.ndarray:
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    return np.asarray(ImageOps.fit(picture, (side, side))).reshape(side, side, -1)


def _side_to_resize_to(builder: tfds.core.DatasetBuilder, image_size: int | None) -> int | None:
    feature = dict(builder.info.features).get("image")
    if not isinstance(feature, tfds.features.Image) or feature.np_dtype != np.uint8:
        raise UserError(f"the TFDS data set {builder.name} has no feature `image` of 8-bit images")
    height, width, _ = feature.shape
    square = height is not None and height == width
    if image_size is None and not square:
        raise UserError(f"the images of {builder.name} are not squares of one size: give image_size")
    return None if square and image_size in (None, height) else image_size


def _find_builder(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        similar = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False))
        hint = f": did you mean {' or '.join(similar)}?" if similar else ""
        raise UserError(f"TFDS has no data set {name}{hint}") from error
    except Exception as error:  # TFDS raises a type of its own for each wrong config, version or form of name
        raise UserError(f"TFDS cannot find {name}: {one_line(error)}") from error
