"""TensorFlow Serving's REST API for one model: predict and model status.

Source: https://www.tensorflow.org/tfx/serving/api_rest
"""

import base64
import contextlib
import json
import logging
import os

import anyio
import numpy as np
import tensorflow as tf
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dvpvae_tf.errors import UserError, did_you_mean

TYPES = {"f": {float, int}, "i": {int}, "u": {int}, "b": {bool}, "O": {str, dict}}  # of JSON, for each kind of dtype
logger = logging.getLogger(__name__)


def application(versions, name, max_rows=64, max_body_bytes=16 * 2**20, poll_seconds=2):
    """Makes the web application that serves a model under `/v1/models/<name>`.

    Args:
        versions: `dvpvae_tf.serving.versions.Versions` whose `update` has loaded a version. From the start of the
            application to its end, `update` is called again and again.
        name: str, the name of the model in the paths.
        max_rows: int, the most rows that a request may have.
        max_body_bytes: int, the most bytes that a request may have.
        poll_seconds: float, how long to wait between two looks for a new version.

    Returns:
        `starlette.applications.Starlette`.
    """
    model = f"/v1/models/{name}"
    routes = []
    for path in (model, f"{model}/versions/{{version}}"):
        routes.append(Route(f"{path}:predict", _predict, methods=["POST"]))
        routes.append(Route(path, _status, methods=["GET"]))
    handlers = {HTTPException: _tell, UserError: _tell, tf.errors.InvalidArgumentError: _tell, Exception: _tell}
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=_keep_looking)
    app.state.versions = versions
    app.state.model = model
    app.state.max_rows = max_rows
    app.state.max_body_bytes = max_body_bytes
    app.state.poll_seconds = poll_seconds
    return app


@contextlib.asynccontextmanager
async def _keep_looking(app):
    async def look():
        while True:
            await anyio.sleep(app.state.poll_seconds)
            with contextlib.suppress(OSError):  # the folder is away for a moment, or a version has just been removed
                await anyio.to_thread.run_sync(app.state.versions.update)

    app.state.limiter = anyio.CapacityLimiter(os.cpu_count())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look)
        yield
        tasks.cancel_scope.cancel()


async def _predict(request):
    body = await _body(request)
    served = _served(request)
    arguments = served.model, body, request.app.state.max_rows
    answer = await anyio.to_thread.run_sync(_answer, *arguments, limiter=request.app.state.limiter)
    return Response(answer, media_type="application/json")


async def _status(request):
    states = request.app.state.versions.states
    version = request.path_params.get("version")
    chosen = [(number, state) for number, state in states.items() if version in (None, str(number))]
    if not chosen:
        raise HTTPException(404, f"there is no version {version} of {request.app.state.model}")
    status = [
        {
            "version": str(number),
            "state": state.name,
            "status": {"error_code": "UNKNOWN" if state.error else "OK", "error_message": state.error},
        }
        for number, state in sorted(chosen, reverse=True)
    ]
    return JSONResponse({"model_version_status": status})


async def _tell(request, error):
    """The answer to a request that failed."""
    status, message = 400, str(error)
    if isinstance(error, HTTPException):
        status, message = error.status_code, error.detail
        if message == "Not Found":  # by Starlette: no such route
            message = f"there is nothing at {request.url.path}: the model is at {request.app.state.model}"
    elif isinstance(error, tf.errors.InvalidArgumentError):
        message = error.message
    elif not isinstance(error, UserError):  # Starlette raises it again, and so it is logged
        status, message = 500, f"{type(error).__name__} in the server: its log says more"
    return JSONResponse({"error": message}, status, getattr(error, "headers", None))


async def _body(request):
    body, most = bytearray(), request.app.state.max_body_bytes
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                raise HTTPException(413, f"the request has more than {most} bytes: send fewer rows at a time")
    except ClientDisconnect as error:  # nobody is there to read this, but neither is it a fault to be logged
        raise HTTPException(400, "the request has not come to its end") from error
    return body


def _served(request):
    served = request.app.state.versions.served
    version = request.path_params.get("version")
    if version not in (None, str(served.version)):
        raise HTTPException(404, f"version {version} is not served here: version {served.version} is")
    return served


def _answer(model, body, max_rows):
    """From the body of a request to that of its answer."""
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the request is not JSON: {error}") from error
    if not isinstance(request, dict) or ("instances" in request) == ("inputs" in request):
        raise UserError('the request is not {"signature_name": ..., "instances": [...]} or {..., "inputs": ...}')
    name = request.get("signature_name", "serving_default")
    if not isinstance(name, str) or name not in model.signatures:
        names = ", ".join(sorted(model.signatures))
        raise UserError(f"there is no signature {name}{did_you_mean(str(name), model.signatures)}: there are {names}")
    signature = model.signatures[name]
    specs = dict(sorted(signature.structured_input_signature[1].items()))
    by_rows = "instances" in request
    columns = _columns_of_rows(request["instances"], specs) if by_rows else _columns(request["inputs"], specs)
    _check_rows(columns, max_rows)
    tensors = {name: _tensor(name, columns[name], spec) for name, spec in specs.items()}
    outputs = {name: _json_value(name, tensor.numpy()) for name, tensor in signature(**tensors).items()}
    answer = {"predictions": _rows_of_columns(outputs)} if by_rows else {"outputs": _bare_if_one(outputs)}
    return json.dumps(answer)


def _columns_of_rows(rows, specs):
    """Input name to the list of its values, from a list with one entry a row."""
    if not isinstance(rows, list) or not rows:
        raise UserError('"instances" is not a list of at least one row')
    rows = [_columns(row, specs, f"row {index}: ") for index, row in enumerate(rows)]
    return {name: [row[name] for row in rows] for name in specs}


def _columns(value, specs, where=""):
    """Input name to value, from a dict of them or, where there is one input, perhaps its bare value."""
    if len(specs) == 1 and (not isinstance(value, dict) or value.keys() == {"b64"}):
        value = dict.fromkeys(specs, value)
    if not isinstance(value, dict):
        raise UserError(f"{where}give each input by its name: {', '.join(specs)}")
    for name in sorted(specs.keys() - value.keys()):
        raise UserError(f"{where}the input {name} is missing")
    for name in sorted(value.keys() - specs.keys()):
        raise UserError(f"{where}there is no input {name}{did_you_mean(name, specs)}: there are {', '.join(specs)}")
    return value


def _check_rows(columns, max_rows):
    numbers = {name: len(value) if isinstance(value, list) else None for name, value in columns.items()}
    for name, number in numbers.items():
        if not number:
            raise UserError(f"the input {name} is not a list of at least one row")
        if number > max_rows:
            raise UserError(f"the input {name} has {number} rows, and a request may have {max_rows}")
    if len(set(numbers.values())) > 1:
        raise UserError(f"the inputs differ in their numbers of rows: {numbers}")


def _tensor(name, value, spec):
    """The tensor of an input, from nested lists."""
    dtype = spec.dtype.as_numpy_dtype
    array = np.array(value, dtype=object)
    leaves = array.ravel().tolist()
    types = set(map(type, leaves))
    if list in types:
        raise UserError(f"the input {name} has rows that differ in shape: it takes {spec.shape}, None being any number")
    if not spec.shape.is_compatible_with(array.shape):
        raise UserError(f"the input {name} has shape {array.shape}: it takes {spec.shape}, None being any number")
    for unfit in types - TYPES[np.dtype(dtype).kind]:
        found = next(leaf for leaf in leaves if type(leaf) is unfit)
        raise UserError(f"the input {name} takes {spec.dtype.name}, and {json.dumps(found)[:40]} is something else")
    try:
        if dtype is object:
            return tf.constant([_bytes(leaf) for leaf in leaves], tf.string, array.shape)
        with np.errstate(over="ignore"):  # 1e39 as float32 is infinity, about which the model has a word to say
            return tf.constant(array.astype(dtype))
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f'the input {name} has a value that is neither text nor {{"b64": ...}} of base64') from error
    except OverflowError as error:
        raise UserError(f"the input {name} has a number beyond the range of {spec.dtype.name}") from error


def _bytes(leaf):
    """The bytes of a JSON text, or of {"b64": ...}."""
    return leaf.encode() if isinstance(leaf, str) else base64.b64decode(leaf["b64"], validate=True)


def _json_value(name, array):
    """What `json.dumps` takes, from an output."""
    if array.dtype != object:
        return array.tolist()
    if name.endswith("_bytes"):
        return [{"b64": base64.b64encode(value).decode()} for value in array]
    return [value.decode(errors="replace") for value in array]


def _rows_of_columns(outputs):
    """One entry a row: a dict, or the bare value of the only output."""
    rows = zip(*outputs.values(), strict=True)
    return [_bare_if_one(dict(zip(outputs, row, strict=True))) for row in rows]


def _bare_if_one(outputs):
    return outputs if len(outputs) > 1 else next(iter(outputs.values()))
