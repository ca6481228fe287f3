"""Folders of the user's own pictures."""

import shutil

import numpy as np
import pytest
from PIL import Image

from dvpvae_tf.data import load_dataset
from dvpvae_tf.errors import UserError


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **options)


def fill(folder, count, shape=(8, 8)):
    """Pictures of one value each, 10 x their number."""
    for index in range(count):
        save(folder / f"{index:02}.png", np.full(shape, 10 * index))


def values_of(dataset):
    return [int(image.flat[0]) for batch in dataset.as_numpy_iterator() for image in batch]


def all_images(folder, **settings):
    return np.concatenate([batch for part in load_dataset(f"folder:{folder}", 1, **settings) for batch in part])


def test_grey_files_give_one_channel_and_an_80_10_10_split(tmp_path):
    fill(tmp_path, 20)
    train, validation, test = load_dataset(f"folder:{tmp_path}", 4, image_size=8)
    assert train.element_spec.shape == (4, 8, 8, 1)
    assert sorted(values_of(train) + values_of(validation) + values_of(test)) == list(range(0, 200, 10))
    assert (len(values_of(train)), len(values_of(validation)), len(values_of(test))) == (16, 2, 2)


def test_the_split_is_the_same_wherever_the_folder_is(tmp_path):
    fill(tmp_path / "here", 20)
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    one, other = (load_dataset(f"folder:{tmp_path / place}", 4, image_size=8, seed=9) for place in ("here", "there"))
    for mine, others in zip(one, other, strict=True):
        assert values_of(mine) == values_of(others)


def test_every_epoch_comes_from_memory(tmp_path):
    fill(tmp_path / "pictures", 10)
    train, _, _ = load_dataset(f"folder:{tmp_path / 'pictures'}", 8, image_size=8)
    shutil.rmtree(tmp_path / "pictures")
    assert sorted(values_of(train)) == sorted(values_of(train))


def test_one_coloured_file_in_a_subfolder_makes_the_set_coloured(tmp_path):
    fill(tmp_path, 11)
    save(tmp_path / "deep" / "er" / "red.JPG", np.full((9, 9, 3), (200, 0, 0)), quality=95)
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "._00.png").write_text("what some systems leave beside a picture")
    images = all_images(tmp_path, image_size=8)
    assert images.shape == (12, 8, 8, 3)
    red = [image for image in images if image[..., 0].mean() > image[..., 1].mean() + 50]
    assert len(red) == 1
    np.testing.assert_allclose(red[0].mean(axis=(0, 1)), (200, 0, 0), atol=3)


def test_pictures_are_cropped_at_the_centre_and_averaged(tmp_path):
    wide = np.zeros((32, 64))
    wide[:, 16:48] = 100  # the central square; what is outside must not be seen
    wide[:16, 16:32] = 220
    for index in range(10):
        save(tmp_path / f"{index}.bmp", wide)
    image = all_images(tmp_path, image_size=8)[0, ..., 0]
    inside, outside = image[1:3, 1:3].astype(int), image[5:7, 1:7].astype(int)
    assert (np.abs(inside - 220) < 10).all() and (np.abs(outside - 100) < 10).all()

    checks = np.indices((16, 16)).sum(axis=0) % 2 * 255  # without antialiasing: 0 or 255
    for index in range(10):
        save(tmp_path / "checks" / f"{index}.png", checks)
    assert (np.abs(all_images(tmp_path / "checks", image_size=4).astype(int) - 127) < 3).all()


def test_a_photograph_is_turned_upright(tmp_path):
    lying = np.zeros((8, 8))
    lying[:, :4] = 255  # bright on the left; orientation 6: turn clockwise, bright on top
    exif = Image.Exif()
    exif[0x0112] = 6
    for index in range(10):
        save(tmp_path / f"{index}.jpg", lying, exif=exif, quality=95)
    image = all_images(tmp_path, image_size=8)[0, ..., 0]
    assert image[:3].min() > 200 and image[5:].max() < 50


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("text.png", lambda path: path.write_text("no picture at all")),
        ("cut.jpg", lambda path: (save(path, np.eye(64) * 255), path.write_bytes(path.read_bytes()[:-200]))),
        ("deep.png", lambda path: Image.fromarray(np.zeros((8, 8), np.uint16)).save(path)),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, spoil):
    fill(tmp_path, 12)
    spoil(tmp_path / name)
    with pytest.raises(UserError, match=f"cannot read the picture .*{name} .*repair or remove it") as error:
        load_dataset(f"folder:{tmp_path}", 4, image_size=8)
    assert "\n" not in str(error.value)


def test_mistakes_with_the_folder_are_told(tmp_path):
    with pytest.raises(UserError, match="there is no folder .*missing"):
        load_dataset(f"folder:{tmp_path / 'missing'}", 4, image_size=8)
    with pytest.raises(UserError, match="has 0 PNG, JPEG, BMP or GIF files: at least 10 are needed"):
        load_dataset(f"folder:{tmp_path}", 4, image_size=8)
    fill(tmp_path, 10)
    with pytest.raises(UserError, match="needs image_size"):
        load_dataset(f"folder:{tmp_path}", 4)
    with pytest.raises(UserError, match="batch_size is 9: for folder:.* it must be from 1 to 8"):
        load_dataset(f"folder:{tmp_path}", 9, image_size=8)
