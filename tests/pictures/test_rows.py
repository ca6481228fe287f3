"""Pictures: how images are set into them, and what partial reconstructions and interpolations are made of."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from dvpvae_tf import pictures
from dvpvae_tf.pictures import rows


@pytest.fixture(scope="module")
def model(lively):
    return lively()


@pytest.fixture(scope="module")
def ladder(lively):
    return lively(pseudoinput="none")


# Grids


def test_a_grid_has_its_images_in_place_and_white_between():
    rows = [np.array([0.0, 0.2], "float32").reshape(2, 1, 1, 1), np.array([7, 9], "uint8").reshape(2, 1, 1, 1)]
    expected = [
        [255, 255, 255, 255, 255],
        [255, 0, 255, 51, 255],
        [255, 255, 255, 255, 255],
        [255, 7, 255, 9, 255],
        [255, 255, 255, 255, 255],
    ]
    np.testing.assert_array_equal(pictures.grid(rows, gap=1)[..., 0], expected)
    larger = pictures.grid(rows, gap=1, scale=2)[..., 0]
    np.testing.assert_array_equal(larger, np.kron(expected, np.ones((2, 2))))


def test_levels_are_rounded_and_clipped_and_uint8_is_left_alone():
    np.testing.assert_array_equal(pictures.to_uint8([-0.1, 0.4 / 255, 0.6 / 255, 1.0, 1.2]), [0, 0, 1, 255, 255])
    np.testing.assert_array_equal(pictures.to_uint8(np.array([3], "uint8")), [3])


def test_each_sample_is_below_its_pseudoinput_and_the_rest_of_the_last_row_white(images):
    samples, pseudoinputs = images(5, channels=3), images(5, channels=3, seed=1)
    rows = np.stack(pictures.rows_of_samples(samples, pseudoinputs, columns=3))
    assert rows.shape == (2, 3, 19, 8, 3)
    tiles = rows.reshape(6, 19, 8, 3)
    np.testing.assert_array_equal(tiles[:5, :8], pseudoinputs)
    np.testing.assert_array_equal(tiles[:5, 9:17], samples)
    assert (tiles[:, [8, 17, 18]] == 255).all() and (tiles[5] == 255).all()
    alone = np.concatenate(pictures.rows_of_samples(samples, columns=5))
    np.testing.assert_array_equal(alone, samples)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_saved_picture_is_the_grid_with_small_images_enlarged(tmp_path, images, channels):
    rows = [images(4, channels), images(4, channels, seed=1)]
    pictures.save(tmp_path / "picture.png", rows)
    saved = np.asarray(Image.open(tmp_path / "picture.png"))
    np.testing.assert_array_equal(saved, pictures.grid(rows, scale=8).squeeze())


# Partial reconstructions


def change_posterior(model, layer, amount):
    for weight in model.top_down.blocks[layer].posterior.trainable_weights:
        weight.assign_add(amount * np.ones(weight.shape))


def rows_that_change(model, images, change, undo):
    """The names of the rows that differ once `change` was called."""
    before = pictures.partial_reconstructions(model, images)
    change()
    after = pictures.partial_reconstructions(model, images)
    undo()
    return [name for name in before if np.abs(before[name] - after[name]).max() > 1e-4]


def test_each_row_takes_the_latents_of_one_more_scale_from_the_posterior(model, images):
    rows = pictures.partial_reconstructions(model, images(4))
    names = ["input", "pseudoinput", "u", "u, z at 2 x 2", "u, z at 2 x 2, 4 x 4"]
    assert list(rows) == names
    assert all(row.shape == (4, 8, 8, 1) and row.dtype == "float32" for row in rows.values())
    np.testing.assert_allclose(rows["input"], images(4) / 255, atol=1e-6)

    # The top layer is of 2 x 2, the one below it of 4 x 4.
    for layer, changed in enumerate((names[3:], names[4:])):
        change, undo = (lambda a=amount, i=layer: change_posterior(model, i, a) for amount in (0.1, -0.1))
        assert rows_that_change(model, images(4), change, undo) == changed
    log_var = model.pseudoinput.log_var
    assert rows_that_change(model, images(4), lambda: log_var.assign_add(3.0 + 0 * log_var), lambda: None) == names[1:]
    log_var.assign_sub(3.0 + 0 * log_var)


def test_the_temperature_is_that_of_what_comes_from_the_prior(model, images):
    cold, warm = (pictures.partial_reconstructions(model, images(4), temperature) for temperature in (0.0, 1.0))
    differences = {name: np.abs(cold[name] - warm[name]).max() for name in cold}
    assert differences["u"] > 0.01 and differences["u, z at 2 x 2"] > 0.01
    assert differences["pseudoinput"] == differences["u, z at 2 x 2, 4 x 4"] == 0


def test_a_column_depends_on_the_seed_and_its_place_alone(model, images):
    few, many = (pictures.partial_reconstructions(model, images(7)[:num], seed=3) for num in (4, 7))
    other = pictures.partial_reconstructions(model, images(4), seed=4)
    for name, row in few.items():
        np.testing.assert_allclose(row, many[name][:4], atol=1e-5)
        assert name == "input" or np.abs(row - other[name]).max() > 1e-4


def test_without_a_pseudoinput_the_coarsest_scale_comes_first(ladder, images):
    rows = pictures.partial_reconstructions(ladder, images(3))
    assert list(rows) == ["input", "z at 2 x 2", "z at 2 x 2, 4 x 4"]


def test_images_of_another_size_are_refused(model, images):
    with pytest.raises(ValueError, match="takes images"):
        pictures.partial_reconstructions(model, images(3, side=7))


# Interpolations


@pytest.mark.parametrize("kind", ["model", "ladder"])
def test_the_ends_of_an_interpolation_are_the_noise_free_reconstructions(kind, images, request):
    model = request.getfixturevalue(kind)
    ends = images(2)
    rows = pictures.interpolation(model, *ends, columns=5)
    assert list(rows) == (["input", "z"] if kind == "ladder" else ["input", "pseudoinput", "u", "u, z"])
    assert all(row.shape == (5, 8, 8, 1) and row.min() >= 0 and row.max() <= 1 for row in rows.values())
    np.testing.assert_allclose(rows["input"][[0, -1]], ends / 255, atol=1e-6)
    assert (rows["input"][1:-1] == 1).all()
    row = rows[list(rows)[-1]]
    np.testing.assert_allclose(row[[0, -1]], model.reconstruct(ends), atol=1e-5)
    assert np.abs(np.diff(row, axis=0)).max(axis=(1, 2, 3)).min() > 1e-3, "every column differs from the next"


def test_u_goes_in_a_straight_line(lively, images):
    model = lively(pseudoinput="downsample")  # what is decoded is then linear in u
    row = pictures.interpolation(model, *images(2), columns=5)["pseudoinput"]
    weights = np.linspace(0, 1, 5)[:, None, None, None]
    np.testing.assert_allclose(row, (1 - weights) * row[0] + weights * row[-1], atol=1e-5)


def test_the_row_of_u_has_z_from_the_prior_with_one_noise(model, images):
    first, second = images(2)
    cold, warm, other = (
        pictures.interpolation(model, first, second, 3, temperature, seed)["u"]
        for temperature, seed in ((0.0, 0), (1.0, 0), (1.0, 1))
    )
    # At temperature 0 it is what the walk gives without the encoder's features and without noise.
    inference = model.infer(np.stack([first, second]), sample=False)
    condition = model.pseudoinput.decode(inference.pseudoinput)
    zeros = [np.zeros((2, *shape), "float32") for shape in model.top_down.latent_shapes]
    expected = model.likelihood.images(model.top_down(zeros, condition)[0])
    np.testing.assert_allclose(cold[[0, -1]], expected, atol=1e-5)
    assert np.abs(cold - warm).max() > 0.01 and np.abs(warm - other).max() > 0.01
    same = pictures.interpolation(model, first, first, 3, 1.0)["u"]
    np.testing.assert_allclose(same, same[[0, 0, 0]], atol=1e-5)


def test_a_spherical_way_turns_evenly_and_ends_where_it_should():
    weights = np.linspace(0, 1, 5)[:, None]
    first, second = np.array([2.0, 0.0]), np.array([0.0, 2.0])
    angles = weights * np.pi / 2
    quarter = 2 * np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    np.testing.assert_allclose(rows._spherical(first, second, weights), quarter, atol=1e-12)
    for other in (first, -first, 0 * first, 3 * first, np.array([2.0, 1e-9])):
        way = rows._spherical(first, other, weights)
        assert np.isfinite(way).all()
        np.testing.assert_allclose(way[[0, -1]], [first, other], atol=1e-12)


def test_an_interpolation_needs_two_columns(model, images):
    with pytest.raises(ValueError, match="at least 2 columns, got 1"):
        pictures.interpolation(model, *images(2), columns=1)


def test_pictures_of_a_model_in_bfloat16_are_much_the_same(tiny, images):
    models = [tiny(dtype=dtype) for dtype in ("float32", "mixed_bfloat16")]
    models[0].adapt(images(50))
    models[1].set_weights(models[0].get_weights())
    for one, other in (
        [pictures.partial_reconstructions(model, images(3)) for model in models],
        [pictures.interpolation(model, *images(2), columns=3) for model in models],
    ):
        assert list(one) == list(other)
        for name in one:
            np.testing.assert_allclose(one[name], other[name], atol=0.02)


def test_samples_of_one_pseudoinput_share_it_and_nothing_else(tiny, images):
    model = tiny()
    model.adapt(images())
    for index, weight in enumerate(model.trainable_variables):
        weight.assign_add(0.1 * tf.random.stateless_normal(weight.shape, (index, 0)))
    column = pictures.samples_of_one_pseudoinput(model, rows=4, seed=3)
    assert column.shape == (5, 8, 8, 1) and column.min() >= 0 and column.max() <= 1
    drawn = model.sample_with_pseudoinputs(4, seed=3)
    np.testing.assert_allclose(column[:2], [drawn.pseudoinputs[0], drawn.images[0]], atol=1e-4)
    assert len(np.unique(column[1:].round(5), axis=0)) == 4
    with pytest.raises(ValueError, match="no pseudoinputs"):
        pictures.samples_of_one_pseudoinput(tiny(pseudoinput="none"))
