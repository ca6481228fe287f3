"""What counts as images, eagerly, in graphs and under XLA."""

import numpy as np
import pytest
import tensorflow as tf

from dvpvae_tf.errors import UserError
from dvpvae_tf.layers.pixels import check_images, iterate_images, to_unit_range

RANGE = r"Images must be uint8, or floats in \[0, 1\]"


def pixels(*values, dtype="float32"):
    return np.array(values, dtype).reshape(1, -1, 1, 1)


def test_bytes_and_floats_are_the_same_images(images):
    unit = images() / np.float32(255)
    for convert in (to_unit_range, tf.function(to_unit_range), tf.function(to_unit_range, jit_compile=True)):
        np.testing.assert_allclose(convert(tf.constant(images())), unit, rtol=1e-6)
        np.testing.assert_array_equal(convert(tf.constant(unit)), unit)
        assert convert(tf.constant(images() / 255.0)).dtype == "float32"


@pytest.mark.parametrize("wrong", [-0.01, 1.01, 255.0, np.nan, -np.inf])
def test_floats_out_of_range_are_refused_eagerly_and_in_graphs_and_are_nan_under_xla(wrong):
    images = pixels(0.5, wrong)
    for check in (check_images, lambda array: to_unit_range(tf.constant(array))):
        with pytest.raises(UserError, match=RANGE) as error:
            check(images)
        assert "\n" not in str(error.value)
    with pytest.raises(tf.errors.InvalidArgumentError, match=RANGE + ": divide 0..255 by 255"):
        tf.function(to_unit_range)(tf.constant(images))
    np.testing.assert_array_equal(tf.function(to_unit_range, jit_compile=True)(images), pixels(0.5, np.nan))


def test_the_error_tells_the_range():
    with pytest.raises(UserError, match="divide 0..255 by 255. Got values from -3 to 254.5"):
        check_images(pixels(0.5, -3, 254.5))


@pytest.mark.parametrize("dtype", ["int32", "int64", "bool"])
def test_other_dtypes_are_refused(dtype):
    for check in (check_images, to_unit_range, tf.function(to_unit_range)):
        with pytest.raises(ValueError, match=f"{RANGE}, got {dtype}"):
            check(tf.constant(pixels(0, 1, dtype=dtype)))


def test_other_shapes_are_refused():
    for check in (check_images, to_unit_range, tf.function(to_unit_range)):
        for shape in ((2, 8, 8), (2, 8, 8, 2)):
            with pytest.raises(ValueError, match=r"Images must be \[N, H, W, 1 or 3\], got \(2, 8, 8"):
                check(tf.zeros(shape))
        with pytest.raises(ValueError, match=r"The model takes images \[N, 8, 8, 1\], got \(2, 9, 9, 1\)"):
            check(tf.zeros((2, 9, 9, 1)), (8, 8, 1))


def test_images_are_taken_out_of_the_usual_batches(images):
    pixels = tf.data.Dataset.from_tensor_slices(images(5)).batch(2)
    for data in (
        images(5),
        pixels,
        pixels.map(lambda batch: (batch, tf.zeros(len(batch)))),
        pixels.map(lambda batch: {"image": batch, "label": tf.zeros(len(batch))}),
        pixels.map(lambda batch: ({"image": batch}, tf.zeros(len(batch)))),
    ):
        np.testing.assert_array_equal(np.concatenate(list(iterate_images(data))), images(5))


def test_data_without_images_and_data_without_end_are_refused(images):
    pixels = tf.data.Dataset.from_tensor_slices(images(5)).batch(2)
    with pytest.raises(ValueError, match=r"must be images, .* got \['id', 'picture'\]"):
        list(iterate_images(pixels.map(lambda batch: {"picture": batch, "id": 0})))
    with pytest.raises(ValueError, match="never end"):
        iterate_images(pixels.repeat())


def test_no_images_are_images():
    check_images(np.zeros((0, 8, 8, 1)), (8, 8, 1))
    assert to_unit_range(tf.zeros((0, 8, 8, 1))).shape == (0, 8, 8, 1)
