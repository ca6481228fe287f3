"""A client of a served model, over REST or gRPC: of TensorFlow Serving, or of `python -m dvpvae_tf.serve`."""

import base64
import contextlib
import io
import json
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import numpy as np
import requests
import tensorflow as tf
from PIL import Image
from urllib3 import BaseHTTPResponse
from urllib3.connectionpool import ConnectionPool
from urllib3.exceptions import ReadTimeoutError
from urllib3.util import Retry

from dvpvae_tf.errors import UserError
from dvpvae_tf.models import Samples
from dvpvae_tf.models.outputs import check_pixels

RETRIED_STATUS = (429, 502, 503, 504)  # HTTP status of a server that may soon answer the same request
FIRST_WAIT = 0.5  # seconds before the first retry over gRPC; each further wait is twice as long
MAX_GRPC_RETRIES = 4  # a limit of gRPC


def sample(
    url: str,
    seeds: Sequence[int] | np.ndarray,
    temperature: float = 0.8,
    timeout: float = 60,
    retries: int = 3,
    pixels: Literal["draw", "mean"] = "draw",
    label: int | None = None,
) -> Samples:
    """Draws images from a served model, one for each seed.

    Args:
        url: `http://host:port/v1/models/NAME`, also with `/versions/N` at its end, or `grpc://host:port/NAME`.
        seeds: int `[N]`. The same seed gives the same image, whatever the others are.
        temperature: factor of the standard deviation of every p(z_l|...).
        timeout: seconds to wait for an answer (over gRPC, for all retries together). A request that timed out is not
            retried.
        retries: how often to retry, after waits that double, where the connection fails or the server says that it is
            overloaded or unavailable; over gRPC at most 4.
        pixels: "draw" draws x from p(x|z). "mean" takes its mean, which exports of earlier versions do not have.
        label: number of a class, for models whose prior has labels. None draws from all classes.

    Returns:
        `dvpvae_tf.models.dvpvae.Samples` of uint8 arrays `[N, D, D, C]`; `pseudoinputs` is None for the Ladder VAE.

    Raises:
        UserError: if there is no answer, the answer is an error or not one of such a model, or a row is invalid.
        ValueError: if `pixels` is neither "draw" nor "mean".
    """
    check_pixels(pixels)
    seeds = np.asarray(seeds, "int64")
    inputs: dict[str, np.ndarray | list[bytes]] = {
        "seed": seeds,
        "temperature": np.full(seeds.shape, temperature, "float32"),
    }
    signature = "sample_mean" if pixels == "mean" else "sample"
    if label is not None:
        inputs["label"] = np.full(seeds.shape, label, "int32")
        signature += "_label"
    try:
        outputs = predict(url, f"{signature}_png", inputs, timeout, retries)
    except UserError as error:
        if signature == "sample" or signature not in str(error):
            raise
        raise UserError(
            f"{url} does not have the signature {signature}_png: it is an older export"
            + (", or its model has no labels" if label is not None else "")
        ) from error
    with _explain_bad_answer(url):
        for seed, problem in zip(seeds, outputs["error"], strict=True):
            if problem:
                raise UserError(f"{url} cannot draw the image of seed {seed}: {problem}")
        images = _decode_images(outputs["image_bytes"], len(seeds))
        pseudoinputs = outputs.get("pseudoinput_bytes")
        return Samples(images, None if pseudoinputs is None else _decode_images(pseudoinputs, len(seeds)))


def predict(
    url: str, signature: str, inputs: dict[str, np.ndarray | list[bytes]], timeout: float = 60, retries: int = 3
) -> dict[str, np.ndarray]:
    """Calls a signature of a served model.

    Args:
        url: see `sample`.
        signature: name such as "score". Over REST it needs several outputs: a single one comes without its name.
        inputs: for each input an array of its dtype, first dimension N, or a list of N PNG files as bytes.
        timeout: see `sample`.
        retries: see `sample`.

    Returns:
        For each output an array, first dimension N: of str for text, of bytes for names that end in `_bytes`.

    Raises:
        UserError: if there is no answer, or the answer is an error or not one of such a model; over REST also if an
            input is not finite, as JSON has no NaN.
    """
    try:
        call = {"http": _predict_rest, "https": _predict_rest, "grpc": _predict_grpc}[urlsplit(url).scheme]
    except (KeyError, ValueError) as error:
        raise UserError(f"{url} is neither http://host:port/v1/models/NAME nor grpc://host:port/NAME") from error
    return call(url, signature, inputs, timeout, retries)


@contextlib.contextmanager
def _explain_bad_answer(url: str) -> Iterator[None]:
    """Turns what goes wrong in reading an answer into a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # json, NumPy and Pillow raise many types for a foreign answer
        raise UserError(f"{url} does not answer as a served model does: check this address") from error


def _decode_images(files: np.ndarray, num: int) -> np.ndarray:
    """Decodes `num` PNG files of one size: uint8 `[num, D, D, C]`."""
    if len(files) != num:
        raise ValueError(f"{len(files)} files for {num} rows")
    images = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])
    return images.reshape(*images.shape[:3], -1)


# REST


class _Retry(Retry):
    """Does not retry after a timeout: the server may still be busy with the first request."""

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: BaseHTTPResponse | None = None,
        error: Exception | None = None,
        _pool: ConnectionPool | None = None,
        _stacktrace: TracebackType | None = None,
    ) -> Self:
        if isinstance(error, ReadTimeoutError):
            raise error
        return super().increment(method, url, response, error, _pool, _stacktrace)


def _predict_rest(url: str, signature: str, inputs: dict, timeout: float, retries: int) -> dict[str, np.ndarray]:
    values = {name: [_to_json(row) for row in rows] for name, rows in inputs.items()}
    try:
        request = json.dumps({"signature_name": signature, "inputs": values}, allow_nan=False)
    except ValueError as error:
        raise UserError("an input is NaN or infinite, which JSON cannot hold: leave that row out") from error
    policy = _Retry(
        retries,
        status_forcelist=RETRIED_STATUS,
        allowed_methods=["POST"],
        backoff_factor=FIRST_WAIT,
        raise_on_status=False,
    )
    with requests.Session() as session:
        session.mount(f"{urlsplit(url).scheme}://", requests.adapters.HTTPAdapter(max_retries=policy))
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
    with _explain_bad_answer(url):
        return {name: _from_json(name, rows) for name, rows in response.json()["outputs"].items()}


def _to_json(row: Any) -> Any:
    return {"b64": base64.b64encode(row).decode()} if isinstance(row, bytes) else np.asarray(row).tolist()


def _from_json(name: str, rows: list) -> np.ndarray:
    if name.endswith("_bytes"):
        return np.array([base64.b64decode(row["b64"]) for row in rows], object)
    array = np.array(rows)
    return array.astype(float) if array.dtype == object else array  # null becomes NaN


def _cause(error: BaseException) -> Any:
    """The message of the operating system."""
    while error.__context__:
        error = error.__context__
    return getattr(error, "strerror", None) or error


def _reason(response: requests.Response) -> str:
    """The message of an answer with an error, in one line."""
    try:
        message = response.json()["error"]
    except (ValueError, LookupError, TypeError):
        message = response.text or response.reason
    return (str(message).splitlines() or [""])[0][:300]


# gRPC


def _predict_grpc(url: str, signature: str, inputs: dict, timeout: float, retries: int) -> dict[str, np.ndarray]:
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
    with _explain_bad_answer(url):
        return {name: _from_proto(name, tensor) for name, tensor in response.outputs.items()}


def _channel_options(retries: int) -> list[tuple[str, Any]]:
    policy = {
        "maxAttempts": 1 + min(retries, MAX_GRPC_RETRIES),
        "initialBackoff": f"{FIRST_WAIT}s",
        "maxBackoff": "60s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    config = {"methodConfig": [{"name": [{}], "retryPolicy": policy}]} if retries else {}
    return [("grpc.service_config", json.dumps(config)), ("grpc.max_receive_message_length", -1)]


def _from_proto(name: str, tensor: Any) -> np.ndarray:
    array = tf.make_ndarray(tensor)
    if array.dtype != object or name.endswith("_bytes"):
        return array
    return np.array([text.decode() for text in array])
