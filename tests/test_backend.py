"""Keras computes with TensorFlow, whatever else it is set to."""

import importlib
import os
import sys
import types

import pytest

from dvpvae_tf.backend import choose_tensorflow


def test_the_backend_is_chosen_where_keras_is_not_imported_yet(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.delitem(sys.modules, "keras")
    importlib.reload(choose_tensorflow)
    assert os.environ["KERAS_BACKEND"] == "tensorflow"


def test_another_backend_is_named(monkeypatch):
    config = types.SimpleNamespace(backend=lambda: "jax")
    monkeypatch.setitem(sys.modules, "keras", types.SimpleNamespace(config=config))
    with pytest.raises(ImportError, match="imported with jax: set the environment variable KERAS_BACKEND=tensorflow"):
        importlib.reload(choose_tensorflow)
