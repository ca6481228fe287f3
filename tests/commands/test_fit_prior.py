"""A better prior for a model that is trained already: what changes, what does not, and what the files keep."""

import keras
import numpy as np
import pytest

from dvpvae_tf import evaluation, fit_prior
from dvpvae_tf.models import refit
from dvpvae_tf.models.loading import load_model


@pytest.fixture(scope="module")
def trained(tiny, images):
    """A tiny model; its file as one that was saved before it was calibrated."""
    model = tiny()
    model.adapt(images(64))
    return model


def test_a_calibrated_model_samples_and_scores_otherwise_and_is_saved_so(trained, images, tmp_path):
    trained.save(tmp_path / "old.keras")
    model = load_model(tmp_path / "old.keras")
    before = model.sample(2, steps=3)
    model.calibrate(images(200, seed=1), images(50, seed=2), steps=3, draws=200)
    after, bound = model.sample(2), evaluation.elbo(model, images(8), 20, verbose=0)
    assert np.abs(after - before).max() > 1e-3
    assert bound.steps == 3
    assert bound.negative_elbo.mean() < evaluation.elbo(trained, images(8), 20, 3, verbose=0).negative_elbo.mean() - 1
    model.save(tmp_path / "new.keras")
    again = load_model(tmp_path / "new.keras")
    np.testing.assert_array_equal(again.sample(2), after)
    assert again.prior.process().kind == "calibrated"


def test_a_full_mixture_takes_the_place_of_the_prior_alone(trained, images, tmp_path, monkeypatch):
    monkeypatch.setattr(refit, "FEWEST_DRAWS", 400)
    model = refit.with_full_mixture(trained, images(200, seed=1), images(50, seed=2), verbose=0)
    assert type(model.prior).__name__ == "FullMixturePrior"
    for part in ("bottom_up", "top_down", "pseudoinput"):
        for ours, theirs in zip(getattr(model, part).weights, getattr(trained, part).weights, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    result = evaluation.elbo(model, images(8), 20, verbose=0)
    assert result.steps is None and set(result.kl_u) == {"cross_entropy", "negative_entropy"}
    assert result.negative_elbo.mean() < evaluation.elbo(trained, images(8), 20, verbose=0).negative_elbo.mean() - 1
    model.save(tmp_path / "mixture.keras")
    again = keras.saving.load_model(tmp_path / "mixture.keras", compile=False)
    np.testing.assert_array_equal(again.sample(3), model.sample(3))


def test_models_without_such_a_prior_are_told_in_one_line(trained, tiny, images, tmp_path, capsys):
    ladder = tiny(pseudoinput="none")
    ladder.save(tmp_path / "ladder.keras")
    tiny(prior="standard").save(tmp_path / "raw.keras")
    for options, message in (
        (["--model", str(tmp_path / "ladder.keras")], "has no pseudoinputs"),
        (["--model", str(tmp_path / "ladder.keras"), "--steps", "3"], "--steps is for --prior calibrated"),
        (["--model", str(tmp_path / "raw.keras")], "never trained"),
    ):
        with pytest.raises(SystemExit) as stop:
            fit_prior.main([*options, "--output", str(tmp_path / "new.keras")])
        assert stop.value.code == 2 and message in capsys.readouterr().err
    with pytest.raises(ValueError, match="Only a model with a diffusion prior"):
        with_standard = tiny(prior="standard")
        with_standard.adapt(images(8))
        with_standard.calibrate(images(20))
    assert not (tmp_path / "new.keras").exists()
