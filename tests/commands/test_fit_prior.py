"""A better prior for a model that is trained already: what changes, what does not, and what the files keep."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from dvpvae_tf import convert, evaluation, fit_prior, sample
from dvpvae_tf.command_line import inputs as command_inputs
from dvpvae_tf.errors import UserError
from dvpvae_tf.models import refit
from dvpvae_tf.models.loading import load_model
from dvpvae_tf.pictures import to_uint8
from dvpvae_tf.priors import StandardPrior, fit_full_mixture
from dvpvae_tf.serving import signatures

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def trained(tiny, images):
    """A tiny model, of one layer, as a prior over u does not depend on them."""
    model = tiny(scales=(4,), layers_per_scale=(1,))
    model.adapt(images(64))
    return model


def test_a_calibrated_model_has_a_better_bound_and_is_saved_so(trained, images, tmp_path):
    model = refit.with_prior(trained, trained.prior)
    drawn = model.sample(2, steps=3)
    model.calibrate(images(60, seed=1), images(20, seed=2), steps=3, draws=200)
    assert np.abs(model.sample(2, steps=3) - drawn).max() > 1e-5, "the compiled sampler has the new process"
    bound = evaluation.elbo(model, images(8), 20, verbose=0)
    assert (bound.steps, bound.process) == (3, "calibrated")
    before = evaluation.elbo(trained, images(8), 20, 3, verbose=0)
    assert before.process == "ancestral" and bound.negative_elbo.mean() < before.negative_elbo.mean() - 1
    model.save(tmp_path / "new.keras")
    again = load_model(tmp_path / "new.keras")
    assert again.prior.process_name == "calibrated"
    np.testing.assert_array_equal(again.sample(2), model.sample(2))


def test_a_full_mixture_takes_the_place_of_the_prior_alone(trained, images, tmp_path, monkeypatch):
    monkeypatch.setattr(refit, "FEWEST_DRAWS", (400, 50))
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


@pytest.mark.slow
def test_a_diffusion_prior_is_trained_alone_and_calibrated(trained, images):
    keras.utils.set_random_seed(0)
    with_mixture = refit.with_prior(trained, StandardPrior(name="prior"))
    model = refit.with_diffusion_prior(with_mixture, images(200, seed=1), images(50, seed=2), 5, 160, verbose=0)
    for part in ("bottom_up", "top_down", "pseudoinput"):
        for ours, theirs in zip(getattr(model, part).weights, getattr(trained, part).weights, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    result = evaluation.elbo(model, images(8), 20, verbose=0)
    assert (result.process, result.steps) == ("calibrated", 5)
    assert (
        result.negative_elbo.mean() < evaluation.elbo(with_mixture, images(8), 20, verbose=0).negative_elbo.mean() - 1
    )
    further = refit.with_diffusion_prior(model, images(200, seed=1), images(50, seed=2), 5, 20, verbose=0)
    changed = [np.abs(a - b).max() for a, b in zip(further.prior.weights, model.prior.weights, strict=True)]
    assert max(changed) > 0, "the model's own network is trained further"


@pytest.fixture(scope="module")
def labelled(trained, images):
    """The tiny model with a mixture for each of two classes, bright images and dark ones; and test images of both."""
    labels = np.tile([0, 1], 50)
    both = images(100, seed=1) // np.where(labels, 3, 1)[:, None, None, None].astype("uint8")
    parts = both[:80], labels[:80], both[80:], labels[80:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refit, "FEWEST_DRAWS", (400, 100))
        model = refit.with_labelled_mixture(trained, *parts, verbose=0, class_names=("bright", "dark"))
    return model, *parts[2:]


def test_a_model_with_labels_draws_a_class_and_knows_it_by_bayes_rule(labelled, tmp_path):
    model, images, labels = labelled
    scores = evaluation.score(model, images, samples=20, verbose=0)
    log_probs = evaluation.label_log_probs(model, scores)
    accuracy = np.mean(log_probs.argmax(axis=1) == labels)
    assert accuracy > 0.9
    found = evaluation.score_labels(model, images, labels, samples=20, verbose=0)
    assert found.accuracy["mean"] == accuracy
    assert found.nats["mean"] == pytest.approx(np.where(labels, *scores.label_nats.T[::-1]).mean())
    assert f"{100 * accuracy:.1f} +- " in str(found) and "(20 test images, K = 20, seed 0)" in str(found)
    assert evaluation.score_labels(model, images, labels, samples=1, limit=7, verbose=0).images == 7
    with pytest.raises(UserError, match="has the labels 0 to 1, but the images have others"):
        evaluation.score_labels(model, images, labels + 1, verbose=0)
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=1), 1)
    # p(x) is the mixture of p(x|c): the same draws give the same bound.
    joint = np.asarray(model.prior.label_log_probs()) - scores.label_nats
    np.testing.assert_allclose(np.logaddexp(*joint.T), -scores.nats, rtol=1e-4)
    bright, dark = (model.sample_with_pseudoinputs(20, label=label).pseudoinputs.mean() for label in (0, 1))
    assert bright > 1.5 * dark
    model.save(tmp_path / "labelled.keras")
    again = load_model(tmp_path / "labelled.keras")
    np.testing.assert_array_equal(again.sample(3, label="dark"), model.sample(3, label=1))


def test_classes_that_cannot_be_fitted_give_a_one_line_error(trained, images):
    for labels, message in (
        ([0] * 10 + [2] * 10, r"label 1 \(dog\) has 0 training and 1 validation images"),
        ([-1] * 20, "there are negative ones"),
    ):
        parts = images(20), np.array(labels), images(2), np.array([0, 1])
        with pytest.raises(UserError, match=message):
            refit.with_labelled_mixture(trained, *parts, class_names=("cat", "dog", "cow"))
    with pytest.raises(UserError, match="label 2 has 0 training and 0 validation images"):
        refit.count_classes([np.array([0, 0, 1, 1]), np.array([0, 1]), np.array([2])])


def test_the_command_takes_the_classes_of_subfolders(trained, images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(refit, "FEWEST_DRAWS", (100, 50))
    monkeypatch.setattr(command_inputs, "model_of", lambda _: trained)
    for name, seed in (("dog", 1), ("cat", 2)):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for index, image in enumerate(images(40, seed=seed)):
            keras.utils.save_img(tmp_path / "mine" / name / f"{index}.png", image, scale=False)
    options = ["--model=tiny.keras", f"--output={tmp_path / 'new.keras'}", f"--dataset=folder:{tmp_path / 'mine'}"]
    fit_prior.main([*options, "--labels"])
    printed = capsys.readouterr().out
    assert "label 0 cat, " in printed and "by Bayes' rule the model labels" in printed
    model = load_model(tmp_path / "new.keras")
    assert model.prior.labels == ["0 cat", "1 dog"]
    monkeypatch.setattr(command_inputs, "model_of", lambda _: model)
    sample.main(["--model=new.keras", "--label=dog", "--num=2", f"--output={tmp_path / 'dogs.npz'}"])
    assert "label 1 dog\n" in capsys.readouterr().out
    with np.load(tmp_path / "dogs.npz") as file:
        assert np.abs(file["images"].astype(int) - to_uint8(model.sample(2, 0.8, label=1))).max() <= 1
    with pytest.raises(SystemExit) as stop:
        sample.main(["--model=new.keras", "--label=dgo", f"--output={tmp_path / 'x.npz'}"])
    error = "error: This model has no label 'dgo' (did you mean dog?): it has 0 cat, 1 dog.\n"
    assert (stop.value.code, capsys.readouterr().err) == (2, error)
    for index, image in enumerate(images(40)):
        keras.utils.save_img(tmp_path / "mine" / f"{index}.png", image, scale=False)
    with pytest.raises(SystemExit) as stop:
        fit_prior.main([*options, "--labels", "--overwrite"])
    assert stop.value.code == 2 and "some of its pictures lie in no class subfolder" in capsys.readouterr().err


def test_a_diffusion_fit_that_was_stopped_goes_on_by_the_same_command(
    trained, save_splits, images, tmp_path, monkeypatch
):
    output, seen = tmp_path / "new.keras", []
    backup = tmp_path / "new.keras.backup"

    def fit(*_, backup, **__):
        seen.append(backup.exists())
        backup.touch()
        if len(seen) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(refit, "fit_diffusion", fit)
    monkeypatch.setattr(refit, "FEWEST_DRAWS", (100, 50))
    monkeypatch.setattr(command_inputs, "model_of", lambda _: trained)
    data = save_splits(tmp_path / "data", images(40))
    options = ["--model=tiny.keras", "--prior=diffusion", "--steps=2", f"--dataset=folder:{data}", f"--output={output}"]
    with pytest.raises(SystemExit) as stop:
        fit_prior.main(options)
    assert stop.value.code == 130 and backup.exists() and not output.exists()
    fit_prior.main([option for option in options if "steps" not in option] + ["--prior=full_mixture"])
    assert backup.exists()  # another kind of fit leaves it alone
    with pytest.raises(SystemExit) as stop:
        fit_prior.main(options)
    assert stop.value.code == 2 and type(load_model(output).prior).__name__ == "FullMixturePrior"
    fit_prior.main([*options, "--overwrite"])
    assert seen == [False, True] and not backup.exists()
    assert load_model(output).prior.steps == 2


def test_a_converted_checkpoint_gets_a_mixture_by_the_command(save_splits, images, tmp_path, monkeypatch):
    monkeypatch.setattr(refit, "FEWEST_DRAWS", (300, 60))
    converted, output = tmp_path / "converted.keras", tmp_path / "mixture.keras"
    before, _ = convert.convert(GOLDEN / "mnist_dvp_state_dict.npz", "mnist", converted)
    data, test = save_splits(tmp_path / "data", images(60, side=28)), images(3, side=28, seed=1)
    fit_prior.main([f"--model={converted}", f"--dataset=folder:{data}", f"--output={output}"])
    model = load_model(output)
    assert type(model.prior).__name__ == "FullMixturePrior"
    for part in ("bottom_up", "top_down", "pseudoinput"):
        for ours, theirs in zip(getattr(model, part).weights, getattr(before, part).weights, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    found, earlier = (evaluation.elbo(each, test, 2, verbose=0) for each in (model, before))
    assert np.isfinite(found.negative_elbo).all() and found.steps is None
    assert sum(found.kl_u.values()).mean() < sum(earlier.kl_u.values()).mean() - 1
    drawn = model.sample(4)
    assert drawn.shape == (4, 28, 28, 1) and np.isfinite(drawn).all() and np.abs(drawn[0] - drawn[1]).max() > 0.01


def test_models_without_such_a_prior_give_a_one_line_error(trained, tiny, images, tmp_path, capsys):
    ladder = tiny(pseudoinput="none")
    ladder.save(tmp_path / "ladder.keras")
    tiny(prior="standard").save(tmp_path / "raw.keras")
    for options, message in (
        (["--model", str(tmp_path / "ladder.keras")], "has no pseudoinputs"),
        (
            ["--model", str(tmp_path / "ladder.keras"), "--steps", "3"],
            "--steps is for --prior diffusion and calibrated",
        ),
        (
            ["--model", str(tmp_path / "raw.keras"), "--prior", "calibrated", "--steps", "500"],
            "a calibrated process takes 100 steps at most, not 500",
        ),
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


def test_an_exported_model_has_the_fitted_prior_and_a_row_depends_on_its_seed_alone(trained, images, tmp_path):
    calibrated = refit.with_prior(trained, trained.prior)
    calibrated.calibrate(images(20, seed=1), steps=2, draws=40)
    u = refit.draw_pseudoinputs(trained, images(20, seed=1), 200)
    mixture = refit.with_prior(trained, fit_full_mixture(u, u, components=(2,), verbose=0))
    seeds = tf.constant([5, 0, 9, 5], tf.int64)
    for number, model in enumerate((calibrated, mixture)):
        sample, holder = signatures.make_signatures(model)["sample"], tf.Module()
        holder.weights = [weight.value for weight in model.variables]
        tf.saved_model.save(holder, str(tmp_path / str(number)), {"sample": sample})
        served = tf.saved_model.load(str(tmp_path / str(number))).signatures["sample"]
        rows = served(seed=seeds, temperature=tf.ones(4))["pseudoinputs"].numpy()
        alone = served(seed=seeds[2:3], temperature=tf.ones(1))["pseudoinputs"].numpy()
        np.testing.assert_allclose(rows[2], alone[0], atol=1e-5)
        np.testing.assert_allclose(rows[0], rows[3], atol=1e-5)
        for row, seed in zip(rows[:3], (5, 0, 9), strict=True):
            own = model.sample_with_pseudoinputs(1, seed=seed).pseudoinputs[0]
            np.testing.assert_allclose(row, own, atol=1e-5)
        assert np.abs(rows[0] - rows[1]).max() > 1e-3
