"""Pictures for people: rows of images, as files and for TensorBoard."""

import keras
import numpy as np

TEMPERATURE = 0.7
PRIOR_TEMPERATURE = 0.8


def grid(rows, gap=2, scale=1):
    """Sets images into a grid on a white ground.

    Args:
        rows: list of arrays `[columns, h, w, C]`, float in [0, 1] or uint8, one a row, all of one shape.
        gap: int, pixels between images, before scaling.
        scale: int, how many pixels a side each pixel becomes.

    Returns:
        uint8 array `[height, width, C]`.
    """
    images = np.stack([_to_uint8(row) for row in rows])
    images = np.pad(images, ((0, 0), (0, 0), (gap, 0), (gap, 0), (0, 0)), constant_values=255)
    height, width, channels = images.shape[0] * images.shape[2], images.shape[1] * images.shape[3], images.shape[4]
    picture = images.transpose(0, 2, 1, 3, 4).reshape(height, width, channels)
    picture = np.pad(picture, ((0, gap), (0, gap), (0, 0)), constant_values=255)
    return picture.repeat(scale, axis=0).repeat(scale, axis=1)


def _to_uint8(images):
    images = np.asarray(images)
    return images if images.dtype == np.uint8 else (255 * np.clip(images, 0, 1)).round().astype("uint8")


def samples(model, columns=16, seed=0):
    """Draws the rows of Figure 3: pseudoinputs above, the images made from them below.

    The temperatures are `TEMPERATURE` and `PRIOR_TEMPERATURE`, below 1: likely images rather than all kinds.

    Args:
        model: `DVPVAE`.
        columns: int, how many samples.
        seed: int.

    Returns:
        list of arrays `[columns, D, D, C]` in [0, 1]; the images alone for the Ladder VAE.
    """
    drawn = model.sample_with_pseudoinputs(columns, TEMPERATURE, seed, PRIOR_TEMPERATURE)
    return [row for row in (drawn.pseudoinputs, drawn.images) if row is not None]


def reconstructions(model, images):
    """Gives images above, their noise-free reconstructions below.

    Args:
        model: `DVPVAE`.
        images: array `[columns, D, D, C]`, uint8.

    Returns:
        list of two arrays `[columns, D, D, C]`.
    """
    return [_to_uint8(images), _to_uint8(model.reconstruct(images))]


def save(path, rows, scale=2):
    """Writes a grid of images as a PNG file.

    Args:
        path: str or path.
        rows: see `grid`.
        scale: int, see `grid`.
    """
    keras.utils.save_img(path, grid(rows, scale=scale), scale=False)
