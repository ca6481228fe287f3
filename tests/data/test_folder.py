"""Folders of the user's own pictures."""

import hashlib
import os
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dvpvae_tf.data import load_dataset
from dvpvae_tf.data.pipelines import read_dataset, read_images
from dvpvae_tf.errors import UserError


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **options)


def fill(folder, values, shape=(8, 8)):
    """A picture of each value, named by it."""
    for value in values:
        save(folder / f"{value:03}.png", np.full(shape, value))


def read(folder, image_size=8, **settings):
    return read_images(f"folder:{folder}", image_size=image_size, **settings)


def values_of(images):
    return [int(image.flat[0]) for image in images]


def read_whole(folder, **settings):
    return np.concatenate(read(folder, **settings))


def fraction(path):
    """The hash of a file as a number in [0, 1)."""
    return int(hashlib.sha256(path.read_bytes()).hexdigest(), 16) / 16**64


# Labels


@pytest.mark.parametrize("splits", [[""], ["train", "test"]])
def test_labels_are_the_class_subfolders_in_the_order_of_the_images(tmp_path, splits, capsys):
    for split in splits:
        for name, values in (("dog", range(20, 60)), ("cat", range(100, 140)), ("zebra", range(200, 240))):
            fill(tmp_path / split / name / "more", values)
    (tmp_path / splits[0] / "dog" / "broken.png").write_bytes(b"no picture")
    found = read_dataset(f"folder:{tmp_path}", image_size=8, skip_broken=True, labels=True)
    assert "labels 0 cat, 1 dog, 2 zebra" in capsys.readouterr().err
    assert found.classes == ("cat", "dog", "zebra")
    for images, of_split in zip(found.images, found.labels, strict=True):
        assert len(of_split) and of_split.dtype == np.int64
        expected = [1 if value < 100 else 0 if value < 200 else 2 for value in values_of(images)]
        assert of_split.tolist() == expected


def test_pictures_in_no_class_subfolder_have_no_labels(tmp_path):
    fill(tmp_path / "cat", range(20))
    fill(tmp_path, range(100, 101))
    with pytest.raises(UserError, match="has no labels: some of its pictures lie in no class subfolder"):
        read_dataset(f"folder:{tmp_path}", image_size=8, labels=True)


# Splits


def test_the_hash_of_a_file_says_its_split(tmp_path):
    fill(tmp_path, range(100))
    train, validation, test = (set(values_of(part)) for part in read(tmp_path))
    fractions = {int(path.stem): fraction(path) for path in tmp_path.iterdir()}
    assert test == {value for value, number in fractions.items() if number < 0.1}
    assert validation == {value for value, number in fractions.items() if 0.1 <= number < 0.2}
    assert train | validation | test == set(range(100)) and len(train) + len(validation) + len(test) == 100


def test_files_that_come_or_go_or_are_renamed_move_no_other(tmp_path):
    fill(tmp_path, range(0, 200, 2))
    before = [set(values_of(part)) for part in read(tmp_path)]
    fill(tmp_path / "more", range(1, 200, 2))
    for value in range(0, 40, 2):
        (tmp_path / f"{value:03}.png").rename(tmp_path / f"renamed {value}.png")
    after = [set(values_of(part)) for part in read(tmp_path)]
    for old, new in zip(before, after, strict=True):
        assert {value for value in new if value % 2 == 0} == old


def test_copies_are_in_one_split_and_the_folders_place_does_not_matter(tmp_path):
    fill(tmp_path / "here", range(30))
    shutil.copytree(tmp_path / "here", tmp_path / "there" / "copies")
    one, both = read(tmp_path / "here"), read(tmp_path)
    for few, many in zip(one, both, strict=True):
        assert values_of(many) == [value for value in values_of(few) for _ in range(2)]


def test_ten_pictures_have_two_of_validation_and_two_of_test(tmp_path):
    fill(tmp_path, range(10))
    train, validation, test = read(tmp_path)
    assert len(validation) >= 2 and len(test) >= 2
    assert sorted(values_of(np.concatenate([train, validation, test]))) == list(range(10))


def test_the_files_of_the_images_are_told(tmp_path):
    fill(tmp_path / "deep", range(20))
    (tmp_path / "deep" / "999.png").write_bytes(b"no picture")
    images, _, _, files = read_dataset(f"folder:{tmp_path}", image_size=8, skip_broken=True)
    for part, of_split in zip(images, files, strict=True):
        assert [int(name[5:8]) for name in of_split] == values_of(part)
    assert sorted(sum(files, [])) == [f"deep/{value:03}.png" for value in range(20)]


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "validation", "testing")])
def test_subfolders_are_the_splits(tmp_path, names, capsys):
    for index, name in enumerate(names):
        fill(tmp_path / name, range(10 * index, 10 * index + 3))
    fill(tmp_path, [100])
    fill(tmp_path / "drafts", [101])
    parts = [sorted(values_of(part)) for part in read(tmp_path)]
    assert parts == [[0, 1, 2], [10, 11, 12], [20, 21, 22]]
    assert "beside the splits 2" in capsys.readouterr().err


@pytest.mark.parametrize(("given", "missing"), [("test", 1), ("val", 2)])
def test_a_split_without_a_subfolder_is_taken_from_training(tmp_path, given, missing):
    fill(tmp_path / "train", range(100))
    fill(tmp_path / given, [200])
    parts = [set(values_of(part)) for part in read(tmp_path)]
    assert parts.pop(3 - missing) == {200}
    assert parts[0] | parts[1] == set(range(100)) and not parts[0] & parts[1] and 2 <= len(parts[1]) < 25


def test_an_empty_split_folder_is_told(tmp_path):
    fill(tmp_path / "train", range(10))
    (tmp_path / "test").mkdir()
    with pytest.raises(UserError, match="there are no pictures in .*test"):
        read(tmp_path)


def test_a_folder_for_evaluation_is_used_whole(tmp_path):
    fill(tmp_path, range(3))
    for part in read(tmp_path, whole=True):
        assert sorted(values_of(part)) == [0, 1, 2]
    fill(tmp_path / "split" / "train", [10, 11])
    fill(tmp_path / "split" / "test", [20, 21])
    fill(tmp_path / "split" / "val", [30])
    assert [len(part) for part in read(tmp_path / "split", whole=True)] == [2, 1, 2]


def test_every_epoch_comes_from_memory(tmp_path):
    fill(tmp_path / "pictures", range(10))
    train, _, _ = load_dataset(f"folder:{tmp_path / 'pictures'}", 4, image_size=8)
    shutil.rmtree(tmp_path / "pictures")
    assert len(list(train)) == len(list(train)) == 1


# What is read


def test_what_was_read_and_what_not_is_told(tmp_path, capsys):
    fill(tmp_path / "pictures", range(10))
    save(tmp_path / "pictures" / "deep" / "er" / "red.JPG", np.full((9, 16, 3), (200, 0, 0)), quality=95)
    for name in (".ipynb_checkpoints", ".thumbnails", "@eaDir"):
        fill(tmp_path / "pictures" / name, [99])
    (tmp_path / "pictures" / "notes.txt").write_text("not a picture")
    (tmp_path / "pictures" / "weights.h5").write_text("not a picture that Pillow reads")
    (tmp_path / "pictures" / "._00.png").write_text("what some systems leave beside a picture")
    (tmp_path / "pictures" / "gone.png").symlink_to(tmp_path / "nowhere")
    fill(tmp_path / "elsewhere", [50])
    (tmp_path / "pictures" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "pictures" / "again").symlink_to(tmp_path / "pictures")
    images = read_whole(tmp_path / "pictures")
    assert images.shape == (12, 8, 8, 3)
    assert 50 in values_of(images) and 99 not in values_of(images)
    red = [image for image in images if image[..., 0].mean() > image[..., 1].mean() + 50]
    assert len(red) == 1
    np.testing.assert_allclose(red[0].mean(axis=(0, 1)), (200, 0, 0), atol=3)
    (line,) = capsys.readouterr().err.splitlines()
    changes = "converted to colour: 11; cropped to a square: 1; resized to 8 x 8: 1"
    assert f"pictures: 12 pictures of 8 x 8 to 16 x 9 pixels (L 11, RGB 1); {changes}; skipped: " in line
    assert line.endswith("broken links 1, folders linked twice 1, hidden files 1, hidden folders 3, no pictures 2")


def test_what_is_changed_is_told(tmp_path, capsys):
    fill(tmp_path, range(9))
    frames = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (10, 250)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "deep.png")
    save(tmp_path / "clear.png", np.full((8, 8, 4), 100))
    save(tmp_path / "opaque.png", np.full((8, 8, 4), 255))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((8, 16), np.uint8)).save(tmp_path / "turned.jpg", exif=exif)
    read(tmp_path, image_channels=1)
    line = capsys.readouterr().err
    for change in ("first frame taken", "turned upright", "laid on the background", "reduced to 8 bits"):
        assert f"; {change}: 1" in line
    assert "; cropped to a square: 1" in line and "resized" not in line


@pytest.mark.parametrize("suffix", ["webp", "tiff", "ppm", "tga", "gif", "bmp", "jp2"])
def test_every_format_that_pillow_reads(tmp_path, suffix):
    fill(tmp_path, range(9))
    save(tmp_path / f"one.{suffix}", np.full((8, 8), 120))
    assert np.abs(np.array(values_of(read_whole(tmp_path))) - 120).min() <= 2


def test_a_subfolder_that_may_not_be_read_is_told(tmp_path, capsys, monkeypatch):
    fill(tmp_path, range(10))
    fill(tmp_path / "secret", [99])
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert len(read_whole(tmp_path)) == 10
    assert "unreadable folders 1" in capsys.readouterr().err


# Pixels


def test_pictures_are_cropped_at_the_centre_and_averaged(tmp_path):
    wide = np.zeros((32, 64))
    wide[:, 16:48] = 100  # the central square; what is outside must not be seen
    wide[:16, 16:32] = 220
    save(tmp_path / "wide" / "0.bmp", wide)
    image = read(tmp_path / "wide", whole=True)[0][0, ..., 0]
    inside, outside = image[1:3, 1:3].astype(int), image[5:7, 1:7].astype(int)
    assert (np.abs(inside - 220) < 10).all() and (np.abs(outside - 100) < 10).all()

    save(tmp_path / "checks" / "0.png", np.indices((16, 16)).sum(axis=0) % 2 * 255)  # without antialiasing: 0 or 255
    assert (np.abs(read(tmp_path / "checks", 4, whole=True)[0].astype(int) - 127) < 3).all()


def test_a_photograph_is_turned_upright(tmp_path):
    lying = np.zeros((8, 8))
    lying[:, :4] = 255  # bright on the left; orientation 6: turn clockwise, bright on top
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "0.jpg", lying, exif=exif, quality=95)
    image = read(tmp_path, whole=True)[0][0, ..., 0]
    assert image[:3].min() > 200 and image[5:].max() < 50


def transparent(mode):
    """A picture that is 80 grey on its left half and, under alpha 0, 10 on its right half."""
    pixels = np.zeros((8, 8, 2), np.uint8)
    pixels[:, :4], pixels[:, 4:] = (80, 255), (10, 0)
    if mode == "P":
        picture = Image.fromarray((pixels[..., 1] == 0).astype("uint8"), "P")
        picture.putpalette([80, 80, 80, 10, 10, 10])
        picture.info["transparency"] = 1
        return picture
    return Image.fromarray(pixels, "LA").convert(mode)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
@pytest.mark.parametrize(("background", "expected"), [({}, (255,)), ({"background": "#ff8000"}, (255, 128, 0))])
def test_transparent_pictures_lie_on_the_background(tmp_path, mode, background, expected):
    transparent(mode).save(tmp_path / "0.png")
    image = read(tmp_path, whole=True, **background)[0][0]
    assert image.shape == (8, 8, len(expected))
    assert (image[:, :4] == 80).all() and (image[:, 4:] == expected).all()


def test_a_grey_palette_is_grey_and_a_coloured_one_coloured(tmp_path):
    picture = Image.fromarray(np.arange(64, dtype="uint8").reshape(8, 8) // 32, "P")
    for name, palette in (("grey", [30, 30, 30, 200, 200, 200]), ("colour", [30, 30, 30, 200, 0, 0])):
        picture.putpalette(palette)
        (tmp_path / name).mkdir()
        picture.save(tmp_path / name / "0.png")
    assert read(tmp_path / "grey", whole=True)[0].shape == (1, 8, 8, 1)
    assert read(tmp_path / "colour", whole=True)[0].shape == (1, 8, 8, 3)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_grey_of_16_bits_is_scaled_and_not_cut(tmp_path, suffix):
    values = np.array([0, 257, 300, 32896, 65535], "uint16")
    Image.fromarray(np.tile(np.repeat(values, 8)[:, None], (1, 40))).save(tmp_path / f"0.{suffix}")
    image = read(tmp_path, 40, whole=True)[0][0, ::8, 0, 0]
    np.testing.assert_array_equal(image, np.rint(values / 257))


def test_colour_of_16_bits_and_dark_pictures_are_told(tmp_path, capsys):
    write_png_of_16_bits(tmp_path / "colour.png", np.full((8, 8, 3), 51400, ">u2"))
    image = read(tmp_path, whole=True)[0]
    assert image.shape == (1, 8, 8, 3) and (image == 200).all()
    line = capsys.readouterr().err
    assert "; reduced to 8 bits: 1" in line and "nearly black" not in line
    scan = np.random.default_rng(0).integers(0, 4096, (8, 8), np.uint16)  # 12 bits
    Image.fromarray(scan).save(tmp_path / "scan.png")
    read(tmp_path, whole=True)
    assert "; nearly black, as most of their 16 bits are unused: 1; reduced to 8 bits: 2" in capsys.readouterr().err


def write_png_of_16_bits(path, values):
    """Writes a PNG file in colour, which Pillow cannot, from big-endian `[h, w, 3]`."""
    height, width, _ = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in values))
    chunks = [(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")]
    content = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


# Mistakes

BROKEN = {
    "text.png": lambda path: path.write_text("no picture at all"),
    "cut.jpg": lambda path: (save(path, np.eye(64) * 255), path.write_bytes(path.read_bytes()[:-200])),
    "float.tiff": lambda path: Image.fromarray(np.zeros((8, 8), "float32")).save(path),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_cannot_be_read_is_named_or_left_out(tmp_path, name, capsys):
    fill(tmp_path, range(12))
    BROKEN[name](tmp_path / name)
    with pytest.raises(UserError, match=f"cannot read the picture .*{name} .*repair or remove it") as error:
        read(tmp_path)
    assert "\n" not in str(error.value)
    assert len(read_whole(tmp_path, skip_broken=True)) == 12
    assert "skipped: broken 1" in capsys.readouterr().err


def test_mistakes_with_the_folder_are_told(tmp_path):
    for settings, message in [
        ({"whole": True}, "there are no pictures in"),
        ({"image_size": None}, "needs image_size"),
        ({"background": "whit"}, "background whit is no colour"),
    ]:
        with pytest.raises(UserError, match=message):
            read(tmp_path, **settings)
    with pytest.raises(UserError, match="there is no folder .*missing"):
        read(tmp_path / "missing")
    fill(tmp_path, range(9))
    shutil.copyfile(tmp_path / "000.png", tmp_path / "copy.png")  # copies stay in one split
    with pytest.raises(UserError, match="has 9 different pictures: at least 10 are needed"):
        read(tmp_path)
    (tmp_path / "copy.png").unlink()
    fill(tmp_path, range(10))
    with pytest.raises(UserError, match="batch_size is 9: for folder:.* it must be from 1 to 6"):
        load_dataset(f"folder:{tmp_path}", 9, image_size=8)
