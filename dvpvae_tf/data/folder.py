"""A folder of pictures as a data set."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from dvpvae_tf.errors import UserError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif"}


def read_folder(folder, image_size):
    """Reads the PNG, JPEG, BMP and GIF files under a folder and splits them 80:10:10, always the same way.

    Each picture is turned upright by its EXIF tag, cropped at the centre to a square and resized with
    antialiasing; of an animation the first frame is taken. Images are in colour unless every file is grey.

    Args:
        folder: path of the folder; its subfolders are searched too.
        image_size: side of the images, in pixels.

    Returns:
        Training, validation and test images: uint8 arrays [N, image_size, image_size, 1 or 3].

    Raises:
        UserError: for a missing folder or size, fewer than ten pictures, or a file that cannot be read.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    if image_size is None:
        raise UserError(f"folder:{folder} needs image_size, the side to crop and resize its pictures to")
    files = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.name[0] != "."]
    if len(files) < 10:
        raise UserError(f"{folder} has {len(files)} PNG, JPEG, BMP or GIF files: at least 10 are needed")

    files = np.random.default_rng(0).permutation(sorted(files))
    with ThreadPoolExecutor() as threads:
        pictures = list(threads.map(lambda path: _read_picture(path, image_size), files))
    mode = "L" if all(picture.mode == "L" for picture in pictures) else "RGB"
    images = np.stack([np.asarray(picture.convert(mode)) for picture in pictures])
    images = images.reshape(len(files), image_size, image_size, -1)
    tenth = len(files) // 10
    return images[: -2 * tenth], images[-2 * tenth : -tenth], images[-tenth:]


def _read_picture(path, side):
    try:
        with Image.open(path) as picture:
            if picture.mode[0] in "IF":
                raise ValueError("more than 8 bits a channel")
            mode = "L" if picture.mode in ("1", "L", "LA", "La") else "RGB"
            return ImageOps.fit(ImageOps.exif_transpose(picture).convert(mode), (side, side))
    except Exception as error:  # Pillow's decoders raise many types for a damaged file
        raise UserError(f"cannot read the picture {path} ({error}): repair or remove it") from error
