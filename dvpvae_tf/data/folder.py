"""A folder of the user's own pictures as a data set."""

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageColor, ImageOps

from dvpvae_tf.errors import UserError, list_some

SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val"),
    "test": ("test", "testing"),
}
SYSTEM_FOLDERS = {"@eadir", "__macosx", "#recycle", "$recycle.bin"}
# Pillow recognises these formats, but cannot decode them, or needs other programs for that.
NOT_READ = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
HELD_OUT = 0.1
LEAST_HELD_OUT = 2
HALF_WHITE = 128
NEARLY_BLACK = 16  # what the 12 bits of many cameras and scanners become
WHITE = 255
MODES = {1: "L", 3: "RGB"}  # Pillow's, by the number of channels


class FolderContents(NamedTuple):
    """What is read of a folder: dicts from `train`, `validation` and `test`.

    Attributes:
        images: uint8 arrays `[N, image_size, image_size, 1 or 3]`.
        files: lists of N paths in the folder, with `/` between their parts.
    """

    images: dict[str, np.ndarray]
    files: dict[str, list[str]]


class Picture(NamedTuple):
    """A file that was read: its path, its pixels, what they were before, and what was changed."""

    path: Path
    digest: str
    image: Image.Image
    size: tuple[int, int]
    mode: str
    changes: list[str]

    def converted(self, mode: str) -> "Picture":
        """The picture in grey, "L", or in colour, "RGB"."""
        if self.image.mode == mode:
            return self
        changes = [*self.changes, f"converted to {'grey' if mode == 'L' else 'colour'}"]
        return self._replace(image=self.image.convert(mode), changes=changes)


def read_folder(
    folder: str | Path,
    image_size: int | None,
    background: str = "white",
    skip_broken: bool = False,
    whole: bool = False,
    image_channels: int | None = None,
) -> FolderContents:
    """Reads the pictures under a folder, in every format that Pillow reads, and splits them.

    Subfolders `train` and `test` or `validation` are the splits. Where one is missing, its files are taken from the
    others by their hashes: about 10% each for validation and test. So a file stays where it is when others come or go,
    and its copies are in the same split.

    Each picture is turned upright by its EXIF tag, laid on the background where it is transparent, cropped at the
    centre to a square and resized with antialiasing. Of an animation the first frame is taken. 16 bits a channel
    become 8. One line on standard error says what was read and changed.

    Args:
        folder: path of the folder. Hidden folders and files, and those that systems leave (`@eaDir`), are not read;
            links to folders are followed.
        image_size: side of the images, in pixels.
        background: colour under transparent pictures, as in CSS.
        skip_broken: leaves out files that cannot be read, instead of refusing the folder.
        whole: a folder without split subfolders is not split: each split is all of it, for evaluation.
        image_channels: 1 for images in grey, 3 for colour; None for colour unless every picture is grey.

    Returns:
        `FolderContents`.

    Raises:
        UserError: for a missing folder or size, an unknown colour, too few pictures, or a file that cannot be read.
    """
    root = check_folder(folder)
    if image_size is None:
        raise UserError(f"folder:{root} needs image_size, the side to crop and resize its pictures to")
    colour = _parse_colour(background)
    skipped: Counter[str] = Counter()

    def read(path: Path) -> Picture | None:
        try:
            return _read_picture(path, image_size, colour)
        except Exception as error:  # Pillow's decoders raise many types for a damaged file
            if not skip_broken:
                raise UserError(
                    f"cannot read the picture {path} ({error}): repair or remove it, or leave it out with skip_broken"
                ) from error
            return None

    paths = list(_find_pictures(root, skipped))
    with ThreadPoolExecutor() as threads:
        pictures = [picture for picture in threads.map(read, paths) if picture is not None]
    if len(pictures) < len(paths):
        skipped["broken"] = len(paths) - len(pictures)
    are_grey = all(picture.image.mode == "L" for picture in pictures)
    mode = MODES[image_channels] if image_channels else "L" if are_grey else "RGB"
    pictures = [picture.converted(mode) for picture in pictures]
    print(_describe(root, pictures, skipped), file=sys.stderr)
    if not pictures:
        raise UserError(f"there are no pictures in {root}")
    digests = {picture.path: picture.digest for picture in pictures}
    splits = {split: _in_order(part) for split, part in _split(root, digests, whole).items()}
    images = {picture.path: np.asarray(picture.image) for picture in pictures}
    return FolderContents(
        {
            split: np.stack([images[path] for path in part]).reshape(len(part), image_size, image_size, -1)
            for split, part in splits.items()
        },
        {split: [path.relative_to(root).as_posix() for path in part] for split, part in splits.items()},
    )


def read_picture(path: str | Path, image_size: int | None, channels: int, background: str = "white") -> np.ndarray:
    """Reads one picture of any size and format, as `read_folder` does; one line tells what was changed.

    Args:
        path: the file.
        image_size: side of the image, in pixels; None takes the shorter side of the picture.
        channels: 1 for grey, 3 for colour.
        background: colour under a transparent picture, as in CSS.

    Returns:
        uint8 `[image_size, image_size, channels]`.

    Raises:
        UserError: if there is no such file, or it cannot be read.
    """
    picture = _read_one(path, image_size, background).converted(MODES[channels])
    sizes, changes = " x ".join(map(str, picture.size)), picture.changes
    print(f"{path}: {sizes} pixels, {picture.mode}" + (f"; {', '.join(changes)}" if changes else ""))
    return np.asarray(picture.image).reshape(*picture.image.size, channels)


def read_mask(path: str | Path, like: str | Path, image_size: int) -> np.ndarray:
    """Reads which pixels of a picture are missing. The mask is cropped and resized as `read_picture` does it.

    Args:
        path: a picture, white where pixels are missing. Where it is transparent, they are not.
        like: the picture that it belongs to.
        image_size: side of the mask, in pixels.

    Returns:
        bool `[image_size, image_size]`, True where the mask is at least half white.

    Raises:
        UserError: if there is no such file, it cannot be read, or the two are of different sizes.
    """
    mask, picture = _read_one(path, image_size, "black"), _read_one(like, image_size)
    if mask.size != picture.size:
        sizes = [" x ".join(map(str, each.size)) for each in (mask, picture)]
        raise UserError(f"the mask {path} has {sizes[0]} pixels, but {like} has {sizes[1]}: give them one size")
    return np.asarray(mask.image.convert("L")) >= HALF_WHITE


def _read_one(path: str | Path, image_size: int | None, background: str = "white") -> Picture:
    colour = _parse_colour(background)
    try:
        return _read_picture(Path(path).expanduser(), image_size, colour)
    except Exception as error:  # Pillow's decoders raise many types for a damaged file
        raise UserError(f"cannot read the picture {path} ({error})") from error


def labels_of_files(folder: str | Path, files: dict[str, list[str]]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Gives the labels of the pictures under a folder: each belongs to the class subfolder that it lies in.

    The class subfolders lie in the folder, or in each of its split subfolders. Sorted by name they are the labels 0, 1
    and so on; one line on standard error tells which.

    Args:
        folder: path of the folder.
        files: see `FolderContents`.

    Returns:
        A dict from `train`, `validation` and `test` to int64 arrays `[N]`, and the names of the classes.

    Raises:
        UserError: if a picture lies in no class subfolder.
    """
    depth = 1 if find_splits(Path(folder).expanduser()) else 0
    parts = {split: [Path(file).parts[depth:] for file in part] for split, part in files.items()}
    if any(len(path) < 2 for part in parts.values() for path in part):
        raise UserError(f"folder:{folder} has no labels: some of its pictures lie in no class subfolder")
    classes = tuple(sorted({path[0] for part in parts.values() for path in part}))
    named = list_some([f"{label} {name}" for label, name in enumerate(classes)])
    print(f"{folder}: labels {named}", file=sys.stderr)
    labels = {split: np.array([classes.index(path[0]) for path in part], np.int64) for split, part in parts.items()}
    return labels, classes


def find_splits(folder: Path) -> dict[str, Path]:
    """Finds the subfolders that are the splits of a folder.

    Args:
        folder: path of the folder.

    Returns:
        dict from the names of the splits to their subfolders; empty unless `train` and another are there.
    """
    children = {child.name.lower(): child for child in folder.iterdir() if child.is_dir()}
    found = {
        split: children[name] for split, names in SPLIT_FOLDERS.items() for name in reversed(names) if name in children
    }
    return found if "train" in found and len(found) > 1 else {}


def check_folder(folder: str | Path) -> Path:
    """Checks that there is a folder.

    Args:
        folder: its path; `~` stands for the user's home.

    Returns:
        The path.

    Raises:
        UserError: if there is none.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    return folder


def _parse_colour(name):
    try:
        return ImageColor.getrgb(name)[:3]
    except ValueError as error:
        raise UserError(f"background {name} is no colour: give a name such as white, or #rrggbb") from error


def _find_pictures(folder: Path, skipped: Counter) -> Iterator[Path]:
    """The files to read, sorted, links to folders followed once; counts the others by reason."""
    Image.init()
    suffixes = {suffix for suffix, kind in Image.EXTENSION.items() if kind in Image.OPEN and kind not in NOT_READ}
    splits = set(find_splits(folder).values())
    seen = set()

    def unreadable(error):
        skipped["unreadable folders"] += 1

    for place, subfolders, files in os.walk(folder, followlinks=True, onerror=unreadable):
        real = os.path.realpath(place)
        if real in seen:  # a link back, or to what is read already
            subfolders[:] = []
            skipped["folders linked twice"] += 1
            continue
        seen.add(real)
        hidden = [name for name in subfolders if name[0] == "." or name.lower() in SYSTEM_FOLDERS]
        skipped["hidden folders"] += len(hidden)
        subfolders[:] = sorted(set(subfolders) - set(hidden))
        if splits and Path(place) == folder:
            skipped["beside the splits"] += len(subfolders) - len(splits) + len(files)
            subfolders[:], files = sorted(path.name for path in splits), []
        for path in sorted(Path(place) / name for name in files):
            if path.name[0] == ".":
                skipped["hidden files"] += 1
            elif path.suffix.lower() not in suffixes:
                skipped["no pictures"] += 1
            elif not path.is_file():
                skipped["broken links"] += 1
            else:
                yield path


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read_picture(path: Path, side: int | None, background: tuple[int, int, int]) -> Picture:
    content = path.read_bytes()
    with Image.open(BytesIO(content)) as picture:
        is_deep = picture.mode[0] == "I" or ";16" in str(picture.tile)  # Pillow opens 16 bits of colour as 8
        upright = ImageOps.exif_transpose(picture)
        side = side or min(upright.size)
        image = ImageOps.fit(_to_8_bits(upright, background), (side, side))
        changes = {
            "first frame taken": _has_more_frames(picture),
            "turned upright": picture.getexif().get(ExifTags.Base.Orientation) in range(2, 9),
            "laid on the background": _is_transparent(picture),
            "reduced to 8 bits": is_deep,
            "nearly black, as most of their 16 bits are unused": is_deep and np.asarray(image).max() <= NEARLY_BLACK,
            "cropped to a square": upright.size[0] != upright.size[1],
            f"resized to {side} x {side}": min(upright.size) != side,
        }
        made = [change for change, is_made in changes.items() if is_made]
        return Picture(path, _digest(content), image, upright.size, picture.mode, made)


def _has_more_frames(picture: Image.Image) -> bool:
    try:
        return getattr(picture, "n_frames", 1) > 1
    except Exception:  # Pillow goes through all frames: some may be damaged, but only the first is used
        return True


def _is_transparent(picture: Image.Image) -> bool:
    return picture.has_transparency_data and np.asarray(picture.convert("RGBA"))[..., 3].min() < WHITE


def _to_8_bits(picture: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Grey (L) or colour (RGB), without transparency."""
    if picture.mode[0] in "IF":
        return _from_16_bits(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        below = Image.new("RGBA", picture.size, background)
        picture = Image.alpha_composite(below, picture).convert("RGB")
        return _as_grey_if_grey(picture)
    if picture.mode == "P":
        return _as_grey_if_grey(picture.convert("RGB"))
    return picture.convert("L" if picture.mode in ("1", "L") else "RGB")


def _from_16_bits(picture: Image.Image) -> Image.Image:
    values = np.asarray(picture)
    if picture.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError(
            f"its pixels (Pillow's mode {picture.mode}) have no known range; save it with 8 bits a channel"
        )
    return Image.fromarray(np.round(values / 257).astype(np.uint8))


def _as_grey_if_grey(picture: Image.Image) -> Image.Image:
    """A palette has no grey mode: its picture is grey if all its pixels are."""
    values = np.asarray(picture)
    return picture.convert("L") if (values == values[..., :1]).all() else picture


def _split(folder: Path, digests: dict[Path, str], whole: bool = False) -> dict[str, dict[Path, str]]:
    """The files of each split: by subfolders, else by their hashes, or all of them in each."""
    found = find_splits(folder)
    if whole and not found:
        return dict.fromkeys(SPLIT_FOLDERS, digests)
    if found:
        splits = {
            split: {path: digest for path, digest in digests.items() if subfolder in path.parents}
            for split, subfolder in found.items()
        }
        empty = [str(found[split]) for split, part in splits.items() if not part]
        if empty:
            raise UserError(f"there are no pictures in {' and '.join(empty)}")
    else:
        splits = {"train": digests}
    different = len(set(splits["train"].values()))  # copies stay in one split
    if different < 10 and len(splits) < 3:
        raise UserError(f"{found.get('train', folder)} has {different} different pictures: at least 10 are needed")
    for split, lower in (("test", 0.0), ("validation", HELD_OUT)):
        if split not in splits:
            splits[split], splits["train"] = _hold_out(splits["train"], lower)
    return splits


def _hold_out(digests: dict[Path, str], lower: float) -> tuple[dict[Path, str], dict[Path, str]]:
    """Splits files in two: those whose hash in [0, 1) is in [`lower`, `lower` + 0.1), at least two; and the rest."""
    numbers = {digest: int(digest[:13], 16) / 16**13 for digest in digests.values()}
    held_out = {digest for digest, number in numbers.items() if lower <= number < lower + HELD_OUT}
    if len(held_out) < LEAST_HELD_OUT:
        held_out = set(sorted(numbers, key=lambda digest: (numbers[digest] < lower, digest))[:LEAST_HELD_OUT])
    rest = {path: digest for path, digest in digests.items() if digest not in held_out}
    return {path: digest for path, digest in digests.items() if digest in held_out}, rest


def _in_order(part: dict[Path, str]) -> list[Path]:
    """Sorts files by hash, which gives a fixed pseudo-random order."""
    return sorted(part, key=lambda path: (part[path], path))


def _describe(folder: Path, pictures: list[Picture], skipped: Counter) -> str:
    line = f"{folder}: {len(pictures)} pictures"
    if pictures:
        by_area = sorted({picture.size for picture in pictures}, key=lambda size: (size[0] * size[1], size))
        sizes = " to ".join(f"{width} x {height}" for width, height in dict.fromkeys((by_area[0], by_area[-1])))
        modes = Counter(picture.mode for picture in pictures)
        line += f" of {sizes} pixels (" + ", ".join(f"{mode} {count}" for mode, count in modes.most_common()) + ")"
    changes = Counter(change for picture in pictures for change in picture.changes)
    line += "".join(f"; {change}: {count}" for change, count in sorted(changes.items()))
    reasons = [f"{reason} {count}" for reason, count in sorted(skipped.items()) if count]
    return line + (f"; skipped: {', '.join(reasons)}" if reasons else "")
