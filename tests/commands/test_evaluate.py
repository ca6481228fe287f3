"""The command that evaluates a model, as its user meets it."""

import functools
import json

import numpy as np
import pytest

from dvpvae_tf import evaluation
from dvpvae_tf.command_line import inputs as command_inputs
from dvpvae_tf.data.pipelines import LoadedDataset
from dvpvae_tf.errors import UserError
from dvpvae_tf.evaluate import main, parse_arguments
from dvpvae_tf.evaluation import feature_distances, features, report
from dvpvae_tf.models.loading import load_model


@pytest.fixture(scope="module")
def run_folder(leave_run):
    return leave_run()


@pytest.fixture(autouse=True)
def data(monkeypatch, images):
    """What the data sets hold: 8x8 blobs, of the splits different ones."""
    asked = []

    def read_dataset(labels=False, **settings):
        asked.append(settings)
        side = 8 if settings["name"] != "tfds:larger" else 10
        numbers = (30, 20, 12)
        of_splits = tuple(np.arange(num) % 3 for num in numbers) if labels else None
        return LoadedDataset(tuple(images(num, side=side, seed=num) for num in numbers), of_splits)

    monkeypatch.setattr(command_inputs, "read_dataset", read_dataset)
    return asked


def evaluate(folder, *options):
    main(["--model", str(folder), *map(str, options)])


def test_a_run_is_evaluated_on_its_own_test_data(run_folder, images, data, tmp_path, capsys):
    output = tmp_path / "results.json"
    evaluate(run_folder, "--samples", 3, "--steps", 2, "--seed", 4, "--output", output)
    assert data[0]["name"] == "folder:blobs"
    results = json.loads(output.read_text())
    model = load_model(run_folder)
    test = images(12, seed=12)
    expected = evaluation.iwae(model, test, 3, steps=2, seed=4, verbose=0)
    assert results["nats"]["mean"] == pytest.approx(expected.estimates.mean(), rel=1e-4)
    settings = {
        "estimator": "iwae, K = 3, T = 2, ancestral",
        "is_bound": True,
        "images": 12,
        "seed": 4,
        "samples": 3,
        "steps": 2,
    }
    settings |= {"dataset": "folder:blobs", "split": "test", "model": str(run_folder), "mixed_precision": False}
    assert settings.items() <= results.items()
    statistics = evaluation.layer_statistics(model, test, seed=4)
    assert results["active_units"] == statistics.all_active_units
    assert list(results["active_units_per_layer"].values()) == list(statistics.active_units)

    printed = capsys.readouterr().out
    for text in (
        "iwae, K = 3, T = 2, ancestral",
        "negative ELBO, T = 2, ancestral",
        "negative ELBO, continuous time",
        "diffusion",
        "z_2",
        "z_1",
    ):
        assert text in printed
    assert f"{results['nats']['mean']:.2f} +- {results['nats']['standard_error']:.2f}" in printed
    assert f"{results['bits_per_dim']['mean']:.4f}" in printed
    assert "not a bound" not in printed


def test_it_is_quick_by_default_and_writes_before_it_prints(run_folder, tmp_path, monkeypatch, capsys):
    """Of one image there is no standard error, and no NaN, which JSON does not have."""
    output, written = tmp_path / "results.json", []
    monkeypatch.setattr(report, "print_tables", lambda results: written.append(output.read_text()))
    evaluate(run_folder, "--limit", 1, "--output", output)
    assert len(written) == 1 and "NaN" not in written[0]
    results = json.loads(written[0])
    assert (results["images"], results["samples"], results["nats"]["standard_error"]) == (1, 10, None)
    assert "iwae of 1 of the 12 images of folder:blobs (test), 10 samples each (see --limit" in capsys.readouterr().out
    assert parse_arguments(["--model", "m"]).limit == 500
    assert parse_arguments(["--model", "m", "--limit", "all"]).limit is None


def test_a_full_disk_does_not_cost_the_numbers(run_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "write_json", _disk_is_full)
    with pytest.raises(SystemExit) as stop:
        evaluate(run_folder, "--limit", 2, "--output", tmp_path / "results.json")
    output, error = capsys.readouterr()
    assert stop.value.code == 2 and "disk is full" in error and "KL of u" in output


def _disk_is_full(*_):
    raise UserError("the disk is full")


def test_the_published_estimate_is_labelled_wherever_it_shows(run_folder, tmp_path, capsys):
    output = tmp_path / "results.json"
    evaluate(run_folder, "--samples", 2, "--estimator", "published", "--output", output, "--limit", 5)
    results, printed = json.loads(output.read_text()), capsys.readouterr().out
    assert results["is_bound"] is False and results["images"] == 5
    assert results["estimator"] == "published, K = 2, T = 3 (not a bound)"
    assert "published, K = 2, T = 3 (not a bound)" in printed and "is not a bound" in printed


def test_the_precision_is_that_of_the_model_unless_told_otherwise(tiny, images, tmp_path):
    model = tiny(dtype="mixed_bfloat16")
    model.adapt(images(64))
    model.save(tmp_path / "mixed.keras")
    found = {}
    for option in (None, "--no-mixed-precision", "--mixed-precision"):
        options = ["--dataset", "tfds:blobs", "--limit", 4, "--samples", 1, "--output", tmp_path / "results.json"]
        evaluate(tmp_path / "mixed.keras", *options, *filter(None, [option]))
        results = json.loads((tmp_path / "results.json").read_text())
        found[option] = results["mixed_precision"], results["nats"]["mean"]
    assert [mixed for mixed, _ in found.values()] == [True, False, True]
    assert found[None] == found["--mixed-precision"] and found[None][1] != found["--no-mixed-precision"][1]


def test_options_choose_the_data(run_folder, data, tmp_path):
    output = tmp_path / "results.json"
    options = ["--estimator", "elbo", "--split", "validation", "--data-dir", "here", "--batch-size", 7]
    evaluate(run_folder / "best.keras", *options, "--dataset", "tfds:blobs", "--output", output)
    assert data[0] == {"name": "tfds:blobs", "data_dir": "here", "image_size": 8, "whole": False}
    results = json.loads(output.read_text())
    assert (results["images"], results["samples"], results["estimator"]) == (20, 1, "elbo, K = 1, T = 3, ancestral")


def test_bfloat16_gives_nearly_the_same(run_folder, tmp_path):
    means = []
    for name, options in (("exact", []), ("rounded", ["--mixed-precision"])):
        evaluate(run_folder, "--samples", 2, "--output", tmp_path / f"{name}.json", *options)
        means.append(json.loads((tmp_path / f"{name}.json").read_text())["nats"]["mean"])
    assert means[0] != means[1] and means[1] == pytest.approx(means[0], rel=0.02)


@pytest.mark.slow
def test_distances_of_features_are_those_of_the_library(run_folder, images, monkeypatch, tmp_path, capsys):
    trained = []
    train = functools.partial(features.train_classifier, steps=20, verbose=0)
    monkeypatch.setattr(features, "train_classifier", lambda *inputs: trained.append(0) or train(*inputs))
    output, file = tmp_path / "results.json", tmp_path / "classifier.keras"
    options = ["--fid", "classifier", "--classifier", file, "--fid-images", 10, "--samples", 1, "--output", output]
    results = []
    for _ in range(2):  # the second time with the classifier of the first
        evaluate(run_folder, *options)
        results.append(json.loads(output.read_text())["feature_distances"])
    assert results[0] == results[1] and len(trained) == 1
    printed = capsys.readouterr().out
    assert "Frechet distance" in printed and "comparable for the same classifier only" in printed
    assert "of the test images correctly" in printed

    classifier = features.load_classifier(file, (8, 8, 1))
    generated = load_model(run_folder).sample(10, seed=0)
    sets = [features.classifier_features(classifier, each) for each in (images(12, seed=12)[:10], generated)]
    expected = feature_distances(*sets)
    assert results[0]["frechet"] == pytest.approx(expected.frechet, rel=1e-3)
    assert (results[0]["num_real"], results[0]["num_generated"]) == (10, 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--samples", "0"], "argument --samples: 0 is not a whole number from 1 on"),
        (["--estimater", "elbo"], "unknown option --estimater (did you mean --estimator?)"),
        (["--estimator", "best"], "argument --estimator: invalid choice: 'best'"),
        (["--seed", "-1"], "argument --seed: -1 is not a whole number from 0 to 2147483647"),
        (["--output", "results.txt"], "the output is results.txt: give it a name that ends in .json"),
        (["--output", "nowhere/results.json"], "there is no folder nowhere for the output: make it first"),
        (["--fid", "--inception-weights", "none.h5"], "there is no file none.h5: give --inception-weights the file"),
        (["--fid", "--fid-images", "3"], "--fid-images is 3: give 4 or more"),
        (["--fid-images", "30"], "--fid-images is for --fid"),
        (["--inception-weights", "none.h5"], "--inception-weights is for --fid inception"),
        (["--fid", "--classifier", "c.keras"], "--classifier is for --fid classifier"),
        (
            ["--fid", "classifier", "--classifier", "none.h5"],
            "the output is none.h5: give it a name that ends in .keras",
        ),
        (
            ["--model", "none"],
            "there is no model none: give the folder of a training run, a .keras file, or a",
        ),
        (["--model", "{tmp}/cut.keras"], "cut.keras is damaged or holds no model of this library"),
        (["--model", "{tmp}/dense.keras"], "dense.keras holds a Sequential, not a DVPVAE"),
        (["--model", "{tmp}/new.keras"], "new.keras holds a model that was never trained"),
        (["--model", "{tmp}/alone.keras"], "alone.keras does not say what data it was trained on: give --dataset"),
        (["--dataset", "tfds:larger"], "tfds:larger has images of 10 x 10 x 1 but the model is for 8 x 8 x 1"),
        (["--model", "{tmp}/ladder.keras", "--steps", "5"], "--steps is for models with a diffusion prior"),
        (["--model", "{tmp}/broken.keras", "--dataset", "mnist"], "broken.keras holds weights that are not finite"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_give_a_one_line_error(run_folder, models, options, message, capsys, monkeypatch):
    monkeypatch.chdir(models)
    with pytest.raises(SystemExit) as stop:
        evaluate(run_folder, *(option.format(tmp=models) for option in options))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
    assert not list(models.glob("*.json"))


@pytest.fixture(scope="module")
def models(tmp_path_factory, run_folder, tiny, images):
    """A folder of files that are no good, or good alone."""
    import keras

    folder = tmp_path_factory.mktemp("models")
    whole = (run_folder / "best.keras").read_bytes()
    (folder / "cut.keras").write_bytes(whole[:1000])
    (folder / "alone.keras").write_bytes(whole)
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(folder / "dense.keras")
    tiny().save(folder / "new.keras")
    tiny(pseudoinput="none").save(folder / "ladder.keras")
    broken = tiny()
    broken.adapt(images())
    kernel = broken.bottom_up.conv_in.kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    broken.save(folder / "broken.keras")
    return folder
