"""The models that the command lines of `benchmarks/` name."""

import argparse

import pytest

from dvpvae_tf.errors import UserError


@pytest.fixture(scope="module")
def script(import_benchmark):
    return import_benchmark("named_models")


def test_a_model_has_a_name_and_steps(script):
    assert script.named_model("mixture=mnist") == ("mixture", "mnist", None)
    assert script.named_model("calibrated, T = 5=runs/a/best.keras@5") == ("calibrated, T = 5", "runs/a/best.keras", 5)
    for wrong in ("mnist", "=mnist", "mixture="):
        with pytest.raises(argparse.ArgumentTypeError, match="is not NAME=MODEL or NAME=MODEL@T"):
            script.named_model(wrong)


def test_models_are_loaded_with_their_process(script):
    parser = argparse.ArgumentParser()
    script.add_models(parser)
    arguments = parser.parse_args(["a=mnist@5", "b=mnist_plus", "--ancestral", "c=mnist"])
    found = script.load_models(arguments)
    assert [(named.name, named.steps, model.process_name) for named, model in found] == [
        ("a", 5, "calibrated"),
        ("b", None, None),
        ("c", None, "ancestral"),
    ]


@pytest.mark.parametrize("given", (["a=mnist_plus@5"], ["a=mnist", "--ancestral", "b=mnist_ladder"]))
def test_steps_and_the_ancestral_process_need_a_diffusion_prior(script, given):
    parser = argparse.ArgumentParser()
    script.add_models(parser)
    with pytest.raises(UserError, match="has no diffusion prior, so it takes neither @T nor --ancestral"):
        script.load_models(parser.parse_args(given))


def test_each_model_has_its_own_name(script):
    parser = argparse.ArgumentParser()
    script.add_models(parser)
    with pytest.raises(UserError, match="two models have one name"):
        script.load_models(parser.parse_args(["a=mnist", "--ancestral", "a=mnist@50"]))
