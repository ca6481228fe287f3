"""The client, against the thin server, a server of errors, and a small gRPC server."""

import contextlib
import http.server
import json
import os
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from dvpvae_tf import client as client_command
from dvpvae_tf import pictures
from dvpvae_tf.errors import UserError
from dvpvae_tf.serving import client


@pytest.fixture(autouse=True)
def work_in_an_empty_folder_without_long_waits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(client, "FIRST_WAIT", 0.01)


@pytest.fixture
def command():
    """Runs the command; keywords are its options."""
    return lambda **options: client_command.main(
        [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    )


@pytest.fixture
def refused(command, capsys):
    """Runs the command, which is to end with one line, and returns that line."""

    def run(**options):
        before = sorted(os.listdir())
        with pytest.raises(SystemExit) as stop:
            command(**{"output": "out.png"} | options)
        output, error = capsys.readouterr()
        assert stop.value.code == 2 and "wrote" not in output
        assert error.startswith("error: ") and error.count("\n") == 1
        assert sorted(os.listdir()) == before, "nothing is half written"
        return error

    return run


def levels(images):
    """The level of each grey image."""
    assert images.dtype == "uint8" and images.shape[1:] == (4, 4, 1)
    assert (images == images[:, :1, :1]).all()
    return list(images[:, 0, 0, 0])


# What is written


def test_all_kinds_of_output_hold_the_images_of_their_seeds(url, command, capsys):
    command(url=url, num=5, seed=3, batch_size=2, output="out.npz")
    assert capsys.readouterr().out.endswith("wrote out.npz\n")
    with np.load("out.npz") as file:
        samples = dict(file)
    assert levels(samples["images"]) == [13, 14, 15, 16, 17]
    assert levels(samples["pseudoinputs"]) == [242, 241, 240, 239, 238]

    command(url=url, num=5, seed=3, output="folder")
    assert sorted(os.listdir("folder")) == [f"00000{index}.png" for index in range(5)]
    assert np.asarray(Image.open("folder/000004.png"))[0, 0] == 17

    command(url=url, num=5, seed=3, output="out.png")
    expected = pictures.grid(pictures.rows_of_samples(**samples, columns=5), scale=16)[..., 0]
    np.testing.assert_array_equal(np.asarray(Image.open("out.png")), expected)
    assert sorted(os.listdir()) == ["folder", "out.npz", "out.png"]


def test_the_client_is_a_module_too(url):
    samples = client.sample(url, [200, 5], temperature=0.5)
    assert levels(samples.images) == [210, 15] and levels(samples.pseudoinputs) == [45, 240]
    assert levels(client.sample(f"{url}/versions/1", [1]).images) == [11]
    assert levels(client.sample(url, [1], pixels="mean").images) == [111]
    images = np.zeros([2, 4, 4, 1], "float32")
    images[1, 0, 0, 0] = 0.25
    outputs = client.predict(url, "reconstruct", {"images": images})
    np.testing.assert_array_equal(outputs["reconstructions"], images)
    assert list(outputs["error"]) == ["", ""]


def test_signatures_that_an_export_does_not_have_give_a_one_line_error(url, refused, command, capsys):
    for options, level in (({"pixels": "mean"}, 110), ({"label": 3}, 40)):
        command(url=url, num=1, output="one.npz", **options)
        assert capsys.readouterr().out == "wrote one.npz\n" and levels(np.load("one.npz")["images"]) == [level]
    assert refused(url=url, pixels="mean", label=1) == (
        f"error: {url} does not have the signature sample_mean_label_png: it is an older export, or its model has no "
        "labels\n"
    )
    with pytest.raises(ValueError, match='^pixels is \'mode\': give "draw" or "mean".$'):
        client.sample(url, [1], pixels="mode")


def test_json_has_no_nan(url):
    """A value that is not finite comes as NaN, and is not sent."""
    outputs = client.predict(url, "sample", {"seed": np.array([1, 2]), "temperature": np.array([1.0, -1.0])})
    assert list(outputs["error"]) == ["", "the temperature is below 0"]
    assert np.isfinite(outputs["images"][0]).all() and np.isnan(outputs["images"][1]).all()
    with pytest.raises(UserError, match="an input is NaN or infinite"):
        client.predict(url, "sample", {"seed": np.array([1]), "temperature": np.array([np.nan])})


def test_a_model_without_pseudoinputs_has_images_alone(url, command, monkeypatch):
    predict = client.predict
    monkeypatch.setattr(client, "predict", lambda url, _, *others: predict(url, "sample_alone", *others))
    command(url=url, num=2, output="out.npz")
    with np.load("out.npz") as file:
        assert list(file) == ["images"] and levels(file["images"]) == [10, 11]


# Mistakes, and what is no mistake but passes


@pytest.fixture
def serve_answers():
    """Serves the given answers in turn, the last of them for ever: status and body, or None to hang up."""

    @contextlib.contextmanager
    def serve(*answers):
        requests = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                requests.append(json.loads(body))
                answer = answers[min(len(requests), len(answers)) - 1]
                if answer is None:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                status, body = answer
                self.send_response(status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            yield f"http://127.0.0.1:{server.server_port}/v1/models/grey", requests
            server.shutdown()
            thread.join()

    return serve


@pytest.fixture(scope="session")
def good_answer(url):
    """The bytes that the thin server sends for seeds 0 and 1."""
    import requests

    inputs = {"seed": [0, 1], "temperature": [1, 1]}
    return requests.post(f"{url}:predict", json={"signature_name": "sample_png", "inputs": inputs}, timeout=60).content


@pytest.mark.parametrize("passing", [(429, b""), (502, b""), (503, b""), (504, b""), None], ids=repr)
def test_what_passes_is_tried_again(serve_answers, good_answer, passing):
    with serve_answers(passing, passing, (200, good_answer)) as (url, requests):
        assert levels(client.sample(url, [0, 1], retries=2).images) == [10, 11]
        assert requests == requests[:1] * 3
        assert requests[0] == {
            "signature_name": "sample_png",
            "inputs": {"seed": [0, 1], "temperature": [pytest.approx(0.8)] * 2},
        }


def test_an_address_with_a_slash_at_its_end_is_tried_again_too(serve_answers, good_answer):
    with serve_answers((503, b""), (200, good_answer)) as (url, requests):
        assert levels(client.sample(f"{url}/", [0, 1], retries=1).images) == [10, 11]
        assert len(requests) == 2


def test_no_more_than_the_retries_are_made(serve_answers, refused):
    with serve_answers((503, b'{"error": "busy"}')) as (url, requests):
        assert f"error: {url} answers with status 503: busy\n" == refused(url=url, retries=2)
        assert len(requests) == 3
    with serve_answers(None) as (url, requests):
        assert f"error: cannot reach {url} (" in refused(url=url, retries=0)
        assert len(requests) == 1


def test_the_waits_between_retries_double(serve_answers, monkeypatch):
    waits = []
    monkeypatch.setattr(client, "FIRST_WAIT", 0.5)
    monkeypatch.setattr(time, "sleep", waits.append)
    with serve_answers((503, b"")) as (url, _), pytest.raises(UserError):
        client.sample(url, [0], retries=4)
    assert [wait for wait in waits if wait >= 0.5] == [1, 2, 4]


@pytest.mark.parametrize("status", [301, 307, 400, 404, 413, 500])
def test_what_does_not_pass_is_not_tried_again(serve_answers, refused, status):
    with serve_answers((status, b'{"error": "it will not do\\nat all"}')) as (url, requests):
        assert refused(url=url) == f"error: {url} answers with status {status}: it will not do\n"
        assert len(requests) == 1


def test_a_refused_connection_is_told_after_the_retries(refused):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    url = f"http://127.0.0.1:{port}/v1/models/grey"
    error = refused(url=url, retries=1)
    assert error == f"error: cannot reach {url} (Connection refused): is the server up, and the address right?\n"


def test_a_server_that_starts_late_is_reached(good_answer, serve_answers, monkeypatch):
    """The first attempt is refused; while the client waits, the server begins to listen."""
    monkeypatch.setattr(client, "FIRST_WAIT", 0.5)
    with socket.socket() as held, ThreadPoolExecutor(1) as pool:
        held.bind(("127.0.0.1", 0))  # without listen, connections are refused
        url = f"http://127.0.0.1:{held.getsockname()[1]}/v1/models/grey"
        sample = pool.submit(client.sample, url, [0, 1], retries=10)
        time.sleep(0.5)
        assert not sample.done()
        held.listen()
        connection, _ = held.accept()
        with connection:
            connection.recv(2**16)
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(good_answer)}\r\n\r\n"
            connection.sendall(head.encode() + good_answer)
            assert levels(sample.result().images) == [10, 11]


def test_an_answer_that_does_not_come_is_not_waited_for_nor_asked_for_again(refused):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1/models/grey"
        error = refused(url=url, timeout=1)
        assert error == f"error: {url} has not answered within 1 seconds: allow more, or send less\n"
        silent.settimeout(0.2)
        silent.accept()
        with pytest.raises(TimeoutError):
            silent.accept()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>Welcome</html>",
        b"[]",
        b'{"predictions": []}',
        b'{"outputs": [1, 2]}',
        b'{"outputs": {"images": [[1], [2]]}}',
        b'{"outputs": {"image_bytes": ["a", "b"], "error": ["", ""]}}',
        b'{"outputs": {"image_bytes": [{"b64": "AA=="}, {"b64": "AA=="}], "error": ["", ""]}}',
        b'{"outputs": {"image_bytes": [], "error": []}}',
        b'{"outputs": {"image_bytes": [], "error": ["", ""]}}',
    ],
)
def test_nonsense_gives_a_one_line_error(serve_answers, refused, answer):
    with serve_answers((200, answer)) as (url, _):
        assert refused(url=url, num=2) == f"error: {url} does not answer as a served model does: check this address\n"


def test_the_wrong_number_of_rows_is_nonsense(serve_answers, good_answer, refused):
    for num in (1, 3):
        with serve_answers((200, good_answer)) as (url, _):
            assert "does not answer as a served model does" in refused(url=url, num=num)
    for name in ("image_bytes", "pseudoinput_bytes"):
        outputs = json.loads(good_answer)["outputs"]
        outputs[name] *= 2
        with serve_answers((200, json.dumps({"outputs": outputs}).encode())) as (url, _):
            assert "does not answer as a served model does" in refused(url=url, num=2)


def test_a_bad_row_of_a_later_batch_leaves_nothing_behind(url, refused, monkeypatch):
    predict = client.predict

    def with_bad_row(url, signature, inputs, *others):
        inputs["temperature"][inputs["seed"] == 5] = -1
        return predict(url, signature, inputs, *others)

    monkeypatch.setattr(client, "predict", with_bad_row)
    for output in ("out.png", "out.npz", "folder"):
        error = refused(url=url, num=7, batch_size=2, output=output)
        assert error == f"error: {url} cannot draw the image of seed 5: the temperature is below 0\n"


def test_what_the_server_says_is_passed_on(url, refused):
    assert "status 404: there is nothing at /v1/models/gray:predict" in refused(url=url.replace("grey", "gray"))
    assert "status 404: version 2 is not served here" in refused(url=f"{url}/versions/2")
    assert "status 400: the input seed has 9 rows, and a request may have 8" in refused(url=url, num=9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "ftp://there/grey"}, "ftp://there/grey is neither http://host:port/v1/models/NAME nor grpc://"),
        ({"url": "localhost:8501"}, "localhost:8501 is neither http://"),
        ({"url": "http://[::1"}, "http://[::1 is neither http://"),
        ({"url": "http:///v1"}, "cannot reach http:///v1 ("),
        ({"output": "out.jpg"}, "out.jpg: give it a name that ends in .png or .npz"),
        ({"num": 257}, "257 images are too many for a grid"),
        ({"retries": 11}, "--retries: invalid choice: 11"),
        ({"timeout": 0}, "--timeout: 0 is not a whole number from 1 on"),
        ({"temperature": "nan"}, "--temperature: nan is not a number from 0 on"),
        ({"sed": 1}, "unknown option --sed (did you mean --seed?)"),
    ],
    ids=repr,
)
def test_mistakes_give_a_one_line_error(refused, changes, message):
    assert message in refused(**{"url": "http://127.0.0.1:1/v1/models/grey"} | changes)


# gRPC


@pytest.fixture(scope="session")
def serve_grpc(write_version, tmp_path_factory):
    """Serves version 1 over gRPC, after the given errors; counts the requests."""
    reason = "needs the extra serving: pip install -e '.[serving]'"
    pytest.importorskip("tensorflow_serving", reason=reason)
    import grpc
    from tensorflow_serving.apis import prediction_service_pb2_grpc
    from tensorflow_serving.apis.predict_pb2 import PredictResponse

    model = tf.saved_model.load(str(write_version(tmp_path_factory.mktemp("grpc"), 1)))

    @contextlib.contextmanager
    def serve(*errors):
        requests = []

        class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
            def Predict(self, request, context):
                requests.append(request)
                if len(requests) <= len(errors):
                    error = errors[len(requests) - 1]
                    if error == "SLOW":
                        time.sleep(1.5)
                    else:
                        context.abort(getattr(grpc.StatusCode, error), f"{error.lower()}\nfor now")
                if request.model_spec.name != "grey":
                    context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found for request: Latest")
                inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
                answer = PredictResponse()
                for name, value in model.signatures[request.model_spec.signature_name](**inputs).items():
                    answer.outputs[name].CopyFrom(tf.make_tensor_proto(value.numpy()))
                return answer

        server = grpc.server(ThreadPoolExecutor(2))
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"grpc://127.0.0.1:{port}/grey", requests
        server.stop(None).wait()

    return serve


def test_grpc_draws_what_rest_draws(serve_grpc, url, command):
    with serve_grpc() as (address, requests):
        command(url=address, num=5, seed=3, batch_size=2, output="grpc.npz")
        seeds = [list(tf.make_ndarray(request.inputs["seed"])) for request in requests]
        assert seeds == [[3, 4], [5, 6], [7]]
        images = np.zeros([2, 4, 4, 1], "float32")
        images[1] = np.nan
        outputs = client.predict(address, "reconstruct", {"images": images})
        np.testing.assert_array_equal(outputs["reconstructions"], images)
        assert list(outputs["error"]) == ["", ""]
    command(url=url, num=5, seed=3, output="rest.npz")
    with np.load("grpc.npz") as over_grpc, np.load("rest.npz") as over_rest:
        for name in ("images", "pseudoinputs"):
            np.testing.assert_array_equal(over_grpc[name], over_rest[name])


def test_files_are_sent_over_both(serve_grpc, url):
    rows = {"seed": np.array([7, 8]), "temperature": np.ones(2, "float32")}
    files = list(client.predict(url, "sample_png", rows)["image_bytes"])
    with serve_grpc() as (grpc_url, _):
        for address in (url, grpc_url):
            outputs = client.predict(address, "reconstruct_png", {"image_bytes": files})
            assert list(outputs["reconstruction_bytes"]) == files and list(outputs["error"]) == ["", ""]


def test_grpc_tries_again_what_passes_and_nothing_else(serve_grpc, refused):
    with serve_grpc("UNAVAILABLE", "UNAVAILABLE") as (address, requests):
        assert levels(client.sample(address, [0, 1]).images) == [10, 11]
        assert len(requests) == 3
    with serve_grpc("UNAVAILABLE") as (address, requests):
        assert refused(url=address, retries=0) == f"error: {address} gives no answer but UNAVAILABLE: unavailable\n"
        assert len(requests) == 1
    for code in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "INTERNAL"):
        with serve_grpc(code) as (address, requests):
            assert f"gives no answer but {code}: {code.lower()}\n" in refused(url=address)
            assert len(requests) == 1


def test_grpc_tells_what_is_wrong(serve_grpc, refused):
    with serve_grpc() as (address, requests):
        error = refused(url=address.replace("grey", "gray"))
        assert "gives no answer but NOT_FOUND: Servable not found for request: Latest" in error
    assert "gives no answer but UNAVAILABLE: " in refused(url=address, retries=1)
    with serve_grpc("SLOW") as (address, requests):
        assert "gives no answer but DEADLINE_EXCEEDED: " in refused(url=address, timeout=1)
        assert len(requests) == 1


def test_grpc_asks_for_the_extra_where_it_is_missing(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis.predict_pb2", None)
    error = refused(url="grpc://127.0.0.1:1/grey")
    assert error == "error: gRPC needs tensorflow_serving.apis.predict_pb2: pip install -e '.[serving]'\n"
