"""Saving after training, and loading in a new process that imports dvpvae_tf and nothing else of ours."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest

import dvpvae_tf
from dvpvae_tf import DVPVAE

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("dvp", "ladder", "mixed")
LOADER = """
import json, sys, warnings
import dvpvae_tf, keras, numpy as np
folder = sys.argv[1]
images = np.load(folder + "/images.npy")
for kind in sys.argv[2:]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = keras.saving.load_model(f"{folder}/{kind}.keras")
    print(json.dumps({
        "class": type(model).__name__,
        "evaluation": model.evaluate(images, batch_size=6, verbose=0, return_dict=True),
        "warnings": [str(warning.message) for warning in caught],
        "policy": model.dtype_policy.name,
    }))
    variables = [*model.weights, *model.optimizer.variables]
    np.savez(f"{folder}/{kind}_loaded.npz", *[variable.numpy() for variable in variables])
"""


class Saved(NamedTuple):
    model: DVPVAE
    evaluation: dict
    loaded: dict
    loaded_variables: list
    file: Path
    images: Any


def make(kind, tiny):
    if kind == "ladder":
        return tiny(pseudoinput="none"), keras.optimizers.Adamax(1e-2, global_clipnorm=5.0, use_ema=True)
    dtype = "mixed_bfloat16" if kind == "mixed" else None
    prior = "mixture" if kind == "mixed" else "diffusion"
    model = tiny(dtype=dtype, prior=prior, seed=3, pseudoinput_log_var_max=1.0)
    of_kind = dvpvae_tf.FusedAdamax(0.01, use_ema=True) if kind == "dvp" else keras.optimizers.SGD(0.01, momentum=0.9)
    return model, of_kind


def without_build_shapes(config):
    """The configuration but for the shapes parts were built with, where JSON has made lists of tuples."""
    parts = {name: part for name, part in config.items() if isinstance(part, dict)}
    return config | {name: {**part, "build_config": None} for name, part in parts.items()}


@pytest.fixture(scope="module")
def all_saved(tiny, images, tmp_path_factory):
    """Float32 kinds trained for three steps; all evaluated, saved, and loaded and evaluated in a new process."""
    folder, results = tmp_path_factory.mktemp("saved"), {}
    np.save(folder / "images.npy", images(12))
    for kind in KINDS:
        model, optimizer = make(kind, tiny)
        model.adapt(images(12))
        model.compile(optimizer, run_eagerly=kind != "dvp")  # one graph to trace in each process
        optimizer.build(model.trainable_variables)
        if kind != "mixed":  # to save time
            model.fit(images(12), batch_size=4, verbose=0)
        results[kind] = model, model.evaluate(images(12), batch_size=6, verbose=0, return_dict=True)
        model.save(folder / f"{kind}.keras")
    process = subprocess.run(
        [sys.executable, "-c", LOADER, str(folder), *KINDS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    loaded = [json.loads(line) for line in process.stdout.splitlines()]
    variables = [list(np.load(folder / f"{kind}_loaded.npz").values()) for kind in KINDS]
    return {
        kind: Saved(*results[kind], *of_process, folder / f"{kind}.keras", images(12))
        for kind, *of_process in zip(KINDS, loaded, variables, strict=True)
    }


@pytest.fixture(params=KINDS)
def saved(request, all_saved):
    return all_saved[request.param]


def test_a_new_process_finds_the_same_weights_and_optimizer(saved):
    variables = [*saved.model.weights, *saved.model.optimizer.variables]
    assert len(variables) == len(saved.loaded_variables)
    for variable, loaded in zip(variables, saved.loaded_variables, strict=True):
        np.testing.assert_array_equal(loaded, variable, err_msg=variable.path)


def test_a_new_process_computes_the_same_bound(saved):
    tolerance = 1e-5 if saved.model.dtype_policy.name == "float32" else 1e-3
    assert saved.loaded["evaluation"].keys() == saved.evaluation.keys()
    for name, value in saved.evaluation.items():
        np.testing.assert_allclose(saved.loaded["evaluation"][name], value, rtol=tolerance, atol=1e-4, err_msg=name)


def test_loading_warns_of_nothing(saved):
    assert saved.loaded["warnings"] == []
    assert saved.loaded["class"] == "DVPVAE"
    assert saved.loaded["policy"] == saved.model.dtype_policy.name


def test_a_loaded_model_has_all_its_parts(saved):
    loaded = keras.saving.load_model(saved.file)
    assert without_build_shapes(loaded.get_config()) == without_build_shapes(saved.model.get_config())
    assert int(loaded.training_steps) == int(saved.model.training_steps)
    for part in ("likelihood", "pseudoinput", "prior"):
        assert type(getattr(loaded, part)) is type(getattr(saved.model, part))
    if loaded.pseudoinput is not None:
        assert loaded.pseudoinput.adapted
        np.testing.assert_array_equal(loaded.pseudoinput.scale, saved.model.pseudoinput.scale)
    images = loaded.infer(saved.images, sample=False).likelihood_params
    expected = saved.model.infer(saved.images, sample=False).likelihood_params
    np.testing.assert_allclose(images, expected, rtol=1e-2, atol=1e-2)


def test_a_configuration_makes_the_same_model_anew(all_saved):
    model = all_saved["dvp"].model
    clone = DVPVAE.from_config(json.loads(json.dumps(model.get_config())))
    assert [weight.shape for weight in clone.weights] == [weight.shape for weight in model.weights]
    clone.set_weights(model.get_weights())
    images = all_saved["dvp"].images
    np.testing.assert_allclose(clone(images).negative_elbo, model(images).negative_elbo, rtol=1e-5)
    assert clone.seed == 3


@pytest.fixture(scope="module")
def of_old_version():
    """A model saved by version 0.1.0, loaded, and what that version computed with it; see `saved/README.md`."""
    file = Path(__file__).parent / "saved" / "version_0_1_0.keras"
    return keras.saving.load_model(file), np.load(file.with_suffix(".npz"))


def test_a_file_of_an_older_version_is_the_same_model(of_old_version, images):
    model, expected = of_old_version
    assert model.adapted and int(model.training_steps) == 8
    assert isinstance(model.optimizer, dvpvae_tf.FusedAdamax) and int(model.optimizer.iterations) == 8
    sums = [np.sum(np.float64(weight)) for weight in model.get_weights()]
    np.testing.assert_allclose(sums, expected["weight_sums"], rtol=1e-6, atol=1e-6)
    elbo = model(images(32)[:6])
    for name in ("negative_elbo", "reconstruction", "kl_z", "kl_u"):
        np.testing.assert_allclose(getattr(elbo, name), expected[name], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(model.reconstruct(images(32)[:3]), expected["reconstructions"], atol=1e-4)


def test_a_file_of_an_older_version_draws_the_same_samples(of_old_version):
    model, expected = of_old_version
    samples = model.sample_with_pseudoinputs(3, temperature=0.8, seed=5, prior_temperature=0.9)
    np.testing.assert_allclose(samples.images, expected["samples"], atol=1e-4)
    np.testing.assert_allclose(samples.pseudoinputs, expected["pseudoinputs"], atol=1e-4)
