"""Python code that is put before snippets and notebooks, so that they run as written and in little time."""

LAYERS = 2
# Presets that are quick to trace.
SHALLOW_PRESETS = f"""
from dvpvae_tf import config as _config

def _load_shallow(preset, overrides=None, load_config=_config.load_config):
    config = load_config(preset, overrides)
    smaller = {{"layers_per_scale": (1, {LAYERS - 1}), "prior_blocks": 1}}
    return config.model_copy(update={{"model": config.model.model_copy(update=smaller)}})

_config.load_config = _load_shallow
"""
# Ten batches to train on.
FEW_IMAGES = """
import dvpvae_tf as _dvpvae_tf

def _load_less(*arguments, load_dataset=_dvpvae_tf.load_dataset, **options):
    train, validation, test = load_dataset(*arguments, **options)
    return train.take(10), validation.take(2), test

_dvpvae_tf.load_dataset = _load_less
"""
# A server of a small OMNIGLOT in place of the published one, and a file of this folder for the checksums.
OMNIGLOT = """
import functools, http.server, pathlib, threading
import numpy, scipy.io
from etils import epath as _epath
from dvpvae_tf.data import omniglot as _omniglot

pathlib.Path("web").mkdir()
scipy.io.savemat("web/chardata.mat", {"data": numpy.zeros((784, 30)), "testdata": numpy.ones((784, 7))})
_handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory="web")
_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler)
threading.Thread(target=_server.serve_forever, daemon=True).start()
_omniglot.URL = f"http://127.0.0.1:{_server.server_port}/chardata.mat"
_omniglot.PUBLISHED_SIZES = 30, 7
_omniglot.Omniglot28._checksums_path = _epath.Path("checksums.tsv")
pathlib.Path("checksums.tsv").touch()
"""
# Mean colours in place of the features of InceptionV3, whose weights are a download.
INCEPTION = """
from dvpvae_tf import evaluation as _evaluation

_evaluation.load_inception = lambda: keras.Sequential(
    [keras.Input((299, 299, 3)), keras.layers.GlobalAveragePooling2D()]
)
"""
# One trial of a small search.
SHORT_SEARCH = """
from dvpvae_tf.tuning import search as _search
from dvpvae_tf.tuning.space import Space as _Space

def _make_short_tuner(*arguments, max_trials, make_tuner=_search.make_tuner, **options):
    space = _Space(channels=(16,), prior_channels=(16, 32))
    return make_tuner(*arguments, space=space, max_trials=min(1, max_trials), **options)

_search.make_tuner = _make_short_tuner
"""
