"""Noise that is a function of (seed, stream, row): distribution, independence, and no dependence on the batch."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from dvpvae_tf import noise

DRAWS = {"normal": (noise.normal, stats.norm()), "uniform": (noise.uniform, stats.uniform())}


@pytest.fixture(params=DRAWS)
def draw(request):
    return DRAWS[request.param][0]


def correlation(first, second):
    """In units of its standard error under independence."""
    return abs(np.corrcoef(np.ravel(first), np.ravel(second))[0, 1]) * np.sqrt(np.size(first))


def test_the_bits_are_those_of_tensorflows_philox():
    """TensorFlow's operation takes one key; odd keys and sizes that are no multiple of a counter's four words."""
    keys = np.random.default_rng(0).integers(-(2**31), 2**31, (5, 2)).astype("int32")
    for size in (1, 2, 4, 7, 1001):
        values = noise.uniform(tf.constant(keys), size)
        for row, key in zip(values, keys, strict=True):
            bits = tf.raw_ops.StatelessRandomUniformFullIntV2(
                shape=[size], key=tf.bitcast(key, tf.uint64)[tf.newaxis], counter=[0, 0], alg=1, dtype=tf.uint32
            )
            np.testing.assert_array_equal(row, (bits.numpy() >> 8) * 2.0**-24)


def test_all_rows_are_drawn_at_once():
    """A loop over rows would cost a GPU more than the numbers themselves."""
    graph = noise._bits.get_concrete_function().graph
    loops = {"While", "StatelessWhile", "MapDefun", "TensorListReserve"}
    assert not loops & {operation.type for operation in graph.get_operations()}


def test_a_row_does_not_depend_on_its_batch(draw):
    everything = draw(noise.row_seeds(3, 5, 0, 10), 7)
    for first, count in ((0, 1), (4, 3), (9, 1)):
        rows = draw(noise.row_seeds(3, 5, first, count), 7)
        np.testing.assert_allclose(rows, everything[first : first + count], rtol=1e-6, atol=1e-6)


def test_the_same_numbers_eagerly_in_a_graph_and_under_xla(draw):
    def function(stream, first):
        return draw(noise.row_seeds(11, stream, first, 4), 9)

    eager = function(-1, 2)
    for jit_compile in (False, True):
        graph = tf.function(function, jit_compile=jit_compile)
        np.testing.assert_allclose(graph(tf.constant(-1), tf.constant(2)), eager, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", DRAWS)
def test_numbers_follow_their_distribution(name):
    draw, distribution = DRAWS[name]
    seeds = noise.row_seeds(0, 0, 0, 4000)
    values = draw(seeds, 8).numpy()
    assert values.dtype == "float32" and values.shape == (4000, 8)
    assert stats.kstest(values.ravel(), distribution.cdf).pvalue > 0.001
    for column in values.T:  # over consecutive keys
        assert stats.kstest(column, distribution.cdf).pvalue > 0.001
    if name == "uniform":
        assert values.min() >= 0 and values.max() < 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((0, 0, 0), (1, 0, 0)),
        ((0, 0, 0), (0, 1, 0)),
        ((0, 0, 0), (0, -1, 0)),
        ((0, -1, 0), (0, -2, 0)),
        ((0, 1, 0), (1, 0, 0)),
        ((0, 0, 0), (0, 0, 2000)),
        ((7, 3, 0), (7, 3, 1)),
        ((-1, 0, 0), (1, 0, 0)),
    ],
)
def test_seeds_streams_and_rows_share_nothing(draw, first, second):
    one, other = (draw(noise.row_seeds(*key, 2000), 10).numpy() for key in (first, second))
    assert not (one == other).all(axis=1).any()
    assert correlation(one, other) < 4


def chi_square_p_value(*values, bins):
    """Of numbers in [0, 1), or of tuples of them, being uniform: counts in equal bins along each axis."""
    counts, _ = np.histogramdd([np.ravel(each) for each in values], bins=bins, range=len(values) * [(0, 1)])
    assert counts.sum() == np.size(values[0]) and counts.mean() >= 20
    return stats.chisquare(counts.ravel()).pvalue


@pytest.mark.parametrize("seed", [0, 1])
def test_uniform_numbers_fill_equal_bins_across_rows_and_streams_alike(seed):
    """Also as pairs of neighbours along each axis: of streams, of rows, of numbers in a row."""
    values = noise.uniform(noise.row_seeds(seed, tf.range(-30, 30), 0, 60), 60).numpy().reshape(60, 60, 60)
    p_values = [chi_square_p_value(values, bins=256)]
    for axis in range(3):
        along = np.moveaxis(values, axis, 0)
        p_values += [chi_square_p_value(along[:, i, i], bins=3) for i in range(0, 60, 6)]
        p_values.append(chi_square_p_value(along[::2], along[1::2], bins=32))
    assert min(p_values) > 0.05 / len(p_values)
    assert stats.kstest(p_values, "uniform").pvalue > 0.001


def test_numbers_of_a_row_and_neighbouring_rows_are_uncorrelated():
    values = noise.normal(noise.row_seeds(2, 1, 0, 5000), 4).numpy()
    assert correlation(values[:, 0], values[:, 1]) < 4
    assert correlation(values[:-1], values[1:]) < 4
    assert correlation(np.square(values[:-1]), np.square(values[1:])) < 4


def test_no_two_keys_of_many_streams_are_equal():
    keys = np.concatenate([noise.row_seeds(0, stream, 0, 200) for stream in range(-2, 100)])
    assert len(np.unique(keys, axis=0)) == len(keys)


def test_the_first_uniform_numbers_of_a_row_do_not_depend_on_how_many_are_drawn():
    seeds = noise.row_seeds(1, 1, 0, 3)
    np.testing.assert_array_equal(noise.uniform(seeds, 50)[:, :7], noise.uniform(seeds, 7))


def test_normal_numbers_depend_on_how_many_are_drawn():
    """Box and Muller's formula in float64: the first half of a row's uniform numbers are radii, the rest angles."""
    seeds = noise.row_seeds(1, 1, 0, 3)
    for size in (6, 8):
        radii, angles = np.split(noise.uniform(seeds, size).numpy().astype("float64"), 2, axis=1)
        points = np.sqrt(-2 * np.log(1 - radii)) * np.exp(2j * np.pi * angles)
        values = noise.normal(seeds, size)
        np.testing.assert_allclose(values, np.concatenate([points.real, points.imag], axis=1), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(noise.normal(seeds, size - 1), values[:, :-1])
    assert not np.isclose(noise.normal(seeds, 8)[:, :6], noise.normal(seeds, 6)).any()


def test_normal_numbers_reach_far_and_are_finite():
    values = noise.normal(noise.row_seeds(0, 0, 0, 100), 10_001).numpy()
    assert np.isfinite(values).all()
    assert 4.5 < values.max() < 6 and -6 < values.min() < -4.5
    outside = (np.abs(values) > 3).mean()
    assert abs(outside / (2 * stats.norm.sf(3)) - 1) < 0.1


def test_far_rows_and_large_seeds():
    seeds = noise.row_seeds(2**31 - 1, 2**31 - 1, 2**31 - 5, 4)
    assert seeds.dtype == tf.int32
    assert np.isfinite(noise.normal(seeds, 3)).all()


def test_keys_of_several_streams_follow_one_another():
    together = noise.row_seeds(4, tf.constant([7, -1, 3]), 2, 5)
    one_by_one = [noise.row_seeds(4, stream, 2, 5) for stream in (7, -1, 3)]
    np.testing.assert_array_equal(together, np.concatenate(one_by_one))


def test_row_numbers_may_be_tensors():
    expected = noise.row_seeds(1, 2, 3, 4)
    tensors = noise.row_seeds(1, tf.constant(2, tf.int64), tf.constant(3), tf.constant(4))
    np.testing.assert_array_equal(tensors, expected)


def test_to_uniform_is_the_normal_distribution_function():
    values = np.linspace(-6, 6, 201).astype("float32")
    np.testing.assert_allclose(noise.to_uniform(tf.constant(values)), stats.norm.cdf(values), rtol=1e-5)
    extremes = noise.to_uniform(tf.constant([-40.0, 40.0]))
    np.testing.assert_array_equal(extremes, [0.0, 1.0])
    draws = noise.to_uniform(noise.normal(noise.row_seeds(5, 0, 0, 2000), 3)).numpy()
    assert stats.kstest(draws.ravel(), "uniform").pvalue > 0.001


def test_arrays_of_a_row_are_one_draw_cut_into_shapes():
    seeds = noise.row_seeds(0, 0, 0, 3)
    first, none, last = noise.normals(seeds, [(2, 3), (0,), (4,)])
    together = noise.normal(seeds, 10).numpy()
    np.testing.assert_array_equal(first, together[:, :6].reshape(3, 2, 3))
    np.testing.assert_array_equal(last, together[:, 6:])
    assert none is None


def test_uses_of_the_same_rows_share_nothing():
    seeds = noise.row_seeds(0, 0, 0, 200)
    uses = [noise.normal(noise.fork(seeds, purpose), 50).numpy().ravel() for purpose in range(5)]
    correlations = np.corrcoef(uses)[~np.eye(5, dtype=bool)]
    assert np.abs(correlations).max() < 5 / np.sqrt(10_000)


def test_keys_of_seeds_are_those_of_a_row_alone():
    seeds = np.array([0, 5, 2**31 - 1])
    keys = noise.keys_of(tf.constant(seeds, tf.int64), -2)
    expected = np.concatenate([noise.row_seeds(int(seed), -2, 0, 1) for seed in seeds])
    np.testing.assert_array_equal(keys, expected)


def test_named_streams_and_purposes_keep_their_numbers():
    """Seeds of before give the same images: a name may be new, a number may not."""
    assert {stream.name: int(stream) for stream in noise.Stream} == {
        "EVALUATION": -1,
        "SAMPLING": -2,
        "CALIBRATION": -3,
        "CALIBRATION_VALIDATION": -4,
        "PSEUDOINPUTS": -5,
        "VALIDATION_PSEUDOINPUTS": -6,
        "FIRST_DRAW": -16,
        "FIRST_INPAINTED": -(2**30),
    }
    of_an_image = {"TARGET": 0, "DRAW": 1, "PUBLISHED_ESTIMATE": 4}
    of_a_sample = {"LATENTS": 1, "PIXELS": 2, "PSEUDOINPUT": 3, "COMPONENT": 4}
    for purposes, expected in ((noise.InferenceNoise, of_an_image), (noise.GenerationNoise, of_a_sample)):
        assert {name: int(purpose) for name, purpose in purposes.__members__.items()} == expected
    for stream in noise.Stream:
        np.testing.assert_array_equal(noise.row_seeds(3, stream, 0, 2), noise.row_seeds(3, int(stream), 0, 2))
    seeds = noise.row_seeds(0, 0, 0, 3)
    np.testing.assert_array_equal(noise.fork(seeds, noise.InferenceNoise.TARGET), seeds)


@pytest.mark.parametrize("seed", [None, 0.5, "0", 2**31])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(ValueError, match="A seed is a whole number from -2\\^31 to 2\\^31 - 1, got"):
        noise.row_seeds(seed, 0, 0, 1)


def test_uniform_numbers_become_equally_likely_indices():
    indices = noise.to_index(tf.constant([0.0, 0.249, 0.25, 0.5, 0.999, 1.0]), 4)
    np.testing.assert_array_equal(indices, [0, 0, 1, 2, 3, 3])  # 1 occurs as a rounded quantile
