"""Calls to a served model, over REST or gRPC: to TensorFlow Serving, or to `python -m dvpvae_tf.serve`."""

import base64
import contextlib
import io
import json
from urllib.parse import urlsplit

import numpy as np
import requests
import tensorflow as tf
from PIL import Image
from urllib3.exceptions import ReadTimeoutError
from urllib3.util import Retry

from dvpvae_tf.errors import UserError
from dvpvae_tf.models.dvpvae import Samples

TRANSIENT = (429, 502, 503, 504)  # HTTP status: the same request may well be answered a little later
FIRST_WAIT = 0.5  # seconds before the first retry over gRPC, doubled before each other
MOST_GRPC_RETRIES = 4  # gRPC itself makes no more


def sample(url, seeds, temperature=0.8, timeout=60, retries=3):
    """Draws images from a served model, one for each seed.

    Args:
        url: str, `http://host:port/v1/models/NAME`, also with `/versions/N` at its end, or `grpc://host:port/NAME`.
        seeds: int array `[N]`: the same seed gives the same image whatever the others are.
        temperature: float, factor of the standard deviation of every p(z_l|...).
        timeout: float, seconds that an answer may take; over gRPC with all retries. It is no transient error.
        retries: int, how often to try again, after waits that double, where no connection is made, it is cut off, or
            the server says that it is overloaded or away for now; over gRPC at most 4.

    Returns:
        `dvpvae_tf.models.dvpvae.Samples` of uint8 arrays `[N, D, D, C]`; `pseudoinputs` is None for the Ladder VAE.

    Raises:
        UserError: if there is no answer, it is an error, it comes from something else than such a model, or it says
            that a row is bad.
    """
    seeds = np.asarray(seeds, "int64")
    inputs = {"seed": seeds, "temperature": np.full(seeds.shape, temperature, "float32")}
    outputs = predict(url, "sample_png", inputs, timeout, retries)
    with _making_sense(url):
        for seed, error in zip(seeds, outputs["error"], strict=True):
            if error:
                raise UserError(f"{url} cannot draw the image of seed {seed}: {error}")
        images = _pixels(outputs["image_bytes"], len(seeds))
        pseudoinputs = outputs.get("pseudoinput_bytes")
        return Samples(images, None if pseudoinputs is None else _pixels(pseudoinputs, len(seeds)))


def predict(url, signature, inputs, timeout=60, retries=3):
    """Calls a signature of a served model.

    Args:
        url: see `sample`.
        signature: str, such as "score"; over REST one that has several outputs, as a single one has no name there.
        inputs: dict from the name of an input to an array of the dtype that it takes, first dimension N, or to a list
            of N bytes where it takes PNG files.
        timeout: see `sample`.
        retries: see `sample`.

    Returns:
        dict from the name of an output to an array, first dimension N; of str for text, of bytes for names that end in
        `_bytes`.

    Raises:
        UserError: if there is no answer, it is an error, or it comes from something else than such a model.
    """
    try:
        call = {"http": _predict_rest, "https": _predict_rest, "grpc": _predict_grpc}[urlsplit(url).scheme]
    except (KeyError, ValueError) as error:
        raise UserError(f"{url} is neither http://host:port/v1/models/NAME nor grpc://host:port/NAME") from error
    return call(url, signature, inputs, timeout, retries)


@contextlib.contextmanager
def _making_sense(url):
    """Turns what goes wrong in understanding an answer into a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # json, NumPy and Pillow raise many types for a foreign answer
        raise UserError(f"{url} does not answer as a served model does: check this address") from error


def _pixels(files, num):
    """Decodes `num` PNG files of one size: uint8 `[num, D, D, C]`."""
    if len(files) != num:
        raise ValueError(f"{len(files)} files for {num} rows")
    images = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])
    return images.reshape(*images.shape[:3], -1)


class _Retry(Retry):
    """Does not try again after a timeout: the server may be at work on the first request still."""

    def increment(self, *args, error=None, **kwargs):
        if isinstance(error, ReadTimeoutError):
            raise error
        return super().increment(*args, error=error, **kwargs)


def _predict_rest(url, signature, inputs, timeout, retries):
    inputs = {name: [_to_json(row) for row in rows] for name, rows in inputs.items()}
    request = json.dumps({"signature_name": signature, "inputs": inputs})
    policy = _Retry(
        retries, status_forcelist=TRANSIENT, allowed_methods=["POST"], backoff_factor=FIRST_WAIT, raise_on_status=False
    )
    with requests.Session() as session:
        session.mount(url, requests.adapters.HTTPAdapter(max_retries=policy))
        try:
            response = session.post(f"{url.rstrip('/')}:predict", request, timeout=timeout, allow_redirects=False)
        except requests.ReadTimeout as error:
            raise UserError(f"{url} has not answered within {timeout} seconds: allow more, or send less") from error
        except requests.RequestException as error:
            raise UserError(
                f"cannot reach {url} ({_cause(error)}): is the server up, and the address right?"
            ) from error
    if response.status_code != 200:
        raise UserError(f"{url} answers with status {response.status_code}: {_reason(response)}")
    with _making_sense(url):
        return {name: _from_json(name, rows) for name, rows in response.json()["outputs"].items()}


def _to_json(row):
    return {"b64": base64.b64encode(row).decode()} if isinstance(row, bytes) else np.asarray(row).tolist()


def _from_json(name, rows):
    if name.endswith("_bytes"):
        return np.array([base64.b64decode(row["b64"]) for row in rows], object)
    return np.array(rows)


def _cause(error):
    """What the operating system has said."""
    while error.__context__:
        error = error.__context__
    return getattr(error, "strerror", None) or error


def _reason(response):
    """The message of an answer with an error."""
    try:
        message = response.json()["error"]
    except (ValueError, LookupError, TypeError):
        message = response.text or response.reason
    return (str(message).splitlines() or [""])[0][:300]


def _predict_grpc(url, signature, inputs, timeout, retries):
    try:
        import grpc
        from tensorflow_serving.apis.predict_pb2 import PredictRequest
        from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub
    except ImportError as error:
        raise UserError(f"gRPC needs {error.name}: pip install -e '.[serving]'") from error
    address = urlsplit(url)
    request = PredictRequest()
    request.model_spec.name = address.path.strip("/")
    request.model_spec.signature_name = signature
    for name, rows in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(rows))
    with grpc.insecure_channel(address.netloc, _channel_options(retries)) as channel:
        try:
            response = PredictionServiceStub(channel).Predict(request, timeout=timeout)
        except grpc.RpcError as error:
            reason = (error.details() or "no reason given").splitlines()[0]
            raise UserError(f"{url} gives no answer but {error.code().name}: {reason}") from error
    with _making_sense(url):
        return {name: _from_proto(name, tensor) for name, tensor in response.outputs.items()}


def _channel_options(retries):
    policy = {
        "maxAttempts": 1 + min(retries, MOST_GRPC_RETRIES),
        "initialBackoff": f"{FIRST_WAIT}s",
        "maxBackoff": "60s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    config = {"methodConfig": [{"name": [{}], "retryPolicy": policy}]} if retries else {}
    return [("grpc.service_config", json.dumps(config)), ("grpc.max_receive_message_length", -1)]


def _from_proto(name, tensor):
    array = tf.make_ndarray(tensor)
    if array.dtype != object or name.endswith("_bytes"):
        return array
    return np.array([text.decode() for text in array])
