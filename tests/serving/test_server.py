"""The thin server, over plain HTTP."""

import base64
import gzip
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

pytest.importorskip("starlette", reason="needs the extra serving: pip install -e '.[serving]'")

from dvpvae_tf import serve

PROJECT = Path(__file__).resolve().parents[2]
IMAGE = [[[0.5]] * 4] * 4
ROW = {"seed": 1, "temperature": 0.8}


def ask(url, request, expected=200):
    """The answer to a predict request, a dict or, as it is, bytes."""
    data = request if isinstance(request, bytes) else json.dumps(request)
    response = requests.post(f"{url}:predict", data, timeout=60)
    assert response.status_code == expected, response.text
    assert response.headers["Content-Type"] == "application/json"
    return response.json()


# What is asked and answered


def test_rows_and_columns_have_the_same_answer(url):
    rows = ask(url, {"instances": [ROW, {"seed": 3, "temperature": 0}]})["predictions"]
    assert [set(row) for row in rows] == [{"images", "pseudoinputs", "error"}] * 2
    np.testing.assert_allclose(rows[0]["images"], np.full([4, 4, 1], 11 / 255), rtol=1e-6)
    np.testing.assert_allclose(rows[1]["pseudoinputs"], np.full([4, 4, 1], 242 / 255), rtol=1e-6)
    columns = ask(url, {"signature_name": "sample", "inputs": {"seed": [1, 3], "temperature": [0.8, 0]}})["outputs"]
    assert columns == {name: [row[name] for row in rows] for name in rows[0]}
    assert ask(f"{url}/versions/1", {"instances": [ROW]})["predictions"] == rows[:1]


def test_bytes_go_both_ways_as_base64(url):
    row = ask(url, {"signature_name": "sample_png", "instances": [ROW]})["predictions"][0]
    assert row["error"] == "" and set(row["image_bytes"]) == {"b64"}
    png = base64.b64decode(row["image_bytes"]["b64"])
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), np.full([4, 4], 11))
    for instance in (row["image_bytes"], {"image_bytes": row["image_bytes"]}):
        request = {"signature_name": "reconstruct_png", "instances": [instance]}
        assert ask(url, request) == {"predictions": [{"reconstruction_bytes": row["image_bytes"], "error": ""}]}
    request = {"signature_name": "reconstruct_png", "inputs": [row["image_bytes"]]}
    assert ask(url, request) == {"outputs": {"reconstruction_bytes": [row["image_bytes"]], "error": [""]}}


def test_one_input_and_one_output_need_no_names(url):
    for inputs in ({"instances": [IMAGE, IMAGE]}, {"instances": [{"images": IMAGE}, {"images": IMAGE}]}):
        assert ask(url, {"signature_name": "brightness", **inputs}) == {"predictions": [0.5, 0.5]}
    for inputs in ([IMAGE, IMAGE], {"images": [IMAGE, IMAGE]}):
        assert ask(url, {"signature_name": "brightness", "inputs": inputs}) == {"outputs": [0.5, 0.5]}


def test_a_bad_row_among_good_ones_is_null_with_its_error(url):
    bad = {"seed": 1, "temperature": -1}
    response = requests.post(f"{url}:predict", json.dumps({"instances": [ROW, bad]}), timeout=60)
    assert response.status_code == 200
    good, bad = json.loads(response.text, parse_constant=pytest.fail)["predictions"]  # NaN is no JSON
    assert good["error"] == "" and np.array(good["images"]).min() > 0
    assert bad["error"] == "the temperature is below 0" and bad["images"] == [[[None]] * 4] * 4
    high = ask(url, {"signature_name": "brightness", "instances": [IMAGE, [[[1e39]] * 4] * 4]})
    assert high == {"predictions": [0.5, None]}


@pytest.mark.parametrize(
    "request_", [{"instances": [ROW | {"temperature": -1}] * 2}, {"inputs": {"seed": [1], "temperature": [-1]}}]
)
def test_a_request_of_bad_rows_alone_fails(url, request_):
    assert ask(url, request_, expected=400) == {"error": "the temperature is below 0"}


def test_a_gzip_body_is_decompressed(url):
    body = gzip.compress(json.dumps({"instances": [ROW]}).encode())
    expected = ask(url, {"instances": [ROW]})
    for headers in ({"Content-Encoding": "gzip"}, {}):
        response = requests.post(f"{url}:predict", body, headers=headers, timeout=60)
        assert response.status_code == 200 and response.json() == expected
    assert "cut short" in ask(url, body[:-9], expected=400)["error"]
    assert "damaged" in ask(url, body[:20] + b"?" + body[21:], expected=400)["error"]
    bomb = gzip.compress(b" " * 2**24)
    assert len(bomb) < 2**16 and "more than 65536 bytes" in ask(url, bomb, expected=413)["error"]
    response = requests.post(f"{url}:predict", b"", headers={"Content-Encoding": "br"}, timeout=60)
    assert response.status_code == 415 and "Content-Encoding br" in response.json()["error"]


def test_the_numbers_at_the_ends_of_their_ranges_are_taken(url):
    rows = [{"seed": seed, "temperature": 1e39} for seed in (-(2**63), 2**63 - 1)]
    assert [row["error"] for row in ask(url, {"instances": rows})["predictions"]] == ["", ""]


def test_the_status_is_that_of_tensorflow_serving(url):
    available = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    for address in (url, f"{url}/versions/1"):
        assert requests.get(address, timeout=60).json() == {"model_version_status": [available]}


def test_the_metadata_are_those_of_tensorflow_serving(url):
    for address in (url, f"{url}/versions/1"):
        metadata = requests.get(f"{address}/metadata", timeout=60).json()
        assert metadata["model_spec"] == {"name": "grey", "signature_name": "", "version": "1"}
        signatures = metadata["metadata"]["signature_def"]["signature_def"]
        assert "serving_default" in signatures and set(signatures["brightness"]["outputs"]) == {"brightness"}
        images = signatures["brightness"]["inputs"]["images"]
        assert images["dtype"] == "DT_FLOAT"
        assert [side["size"] for side in images["tensor_shape"]["dim"]] == ["-1", "4", "4", "1"]
        assert signatures["sample_png"]["outputs"]["image_bytes"]["dtype"] == "DT_STRING"


def test_the_health_check_answers(url):
    response = requests.get(url.replace("/v1/models/grey", "/healthz"), timeout=60)
    assert response.status_code == 200 and response.json() == {"status": "ok"}


def test_concurrent_requests_have_each_its_own_answer(url):
    def level_of(seed):
        rows = ask(url, {"instances": [{"seed": seed, "temperature": 1}] * (1 + seed % 8)})["predictions"]
        assert len(rows) == 1 + seed % 8
        return {round(255 * row["images"][3][3][0]) for row in rows}

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(level_of, range(100))) == [{10 + seed} for seed in range(100)]


# Mistakes


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (b"", "the request is not JSON: "),
        (b'{"instances": [', "the request is not JSON: "),
        (b"\xff\xfe\xfd", "the request is not JSON: "),
        (b"[" * 50000, "the request is not JSON: "),
        (b'{"instances": ' + b"9" * 5000 + b"}", "the request is not JSON: "),
        ([], 'the request is not {"signature_name": ..., "instances": [...]}'),
        ({"signature_name": "sample"}, 'the request is not {"signature_name": ..., "instances": [...]}'),
        ({"instances": [ROW], "inputs": ROW}, 'the request is not {"signature_name": ..., "instances": [...]}'),
        ({"instances": []}, '"instances" is not a list of at least one row'),
        ({"instances": ROW}, '"instances" is not a list of at least one row'),
        (
            {"signature_name": "sampel", "instances": [ROW]},
            "there is no signature sampel (did you mean sample?): there are brightness, fails, reconstruct, "
            "reconstruct_png, sample, sample_alone, sample_label_png, sample_mean_png, sample_png, "
            "serving_default",
        ),
        ({"signature_name": 5, "instances": [ROW]}, "there is no signature 5: there are "),
        ({"signature_name": None, "instances": [ROW]}, "there is no signature None: there are "),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_request_that_makes_no_sense_is_refused(url, request_, message):
    assert message in ask(url, request_, expected=400)["error"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (5, "row 1: give each input by its name: seed, temperature"),
        ({"seed": 1}, "row 1: the input temperature is missing"),
        ({"temperature": 1, "sed": 1}, "row 1: the input seed is missing"),
        (ROW | {"sed": 1}, "row 1: there is no input sed (did you mean seed?): there are seed, temperature"),
        (ROW | {"seed": 1.0}, "the input seed takes int64 [N]: Cannot convert "),
        (ROW | {"seed": "1"}, "the input seed takes int64 [N]: "),
        (ROW | {"seed": None}, "the input seed takes int64 [N]: "),
        (ROW | {"seed": {"b64": "AA=="}}, "the input seed takes int64 [N]: "),
        (ROW | {"seed": 2**63}, "out-of-range integer"),
        (ROW | {"temperature": "hot"}, "the input temperature takes float32 [N]: "),
        (ROW | {"seed": [1]}, "the input seed takes int64 [N]: "),
    ],
    ids=repr,
)
def test_a_bad_value_is_refused_by_the_name_of_its_input(url, row, message):
    assert message in ask(url, {"instances": [ROW, row]}, expected=400)["error"]


@pytest.mark.parametrize(
    ("signature", "inputs", "message"),
    [
        ("brightness", [IMAGE[:3]], "takes float32 [N, 4, 4, 1], and this one has shape [1, 3, 4, 1]"),
        ("brightness", IMAGE, "takes float32 [N, 4, 4, 1], and this one has shape [4, 4, 1]"),
        ("brightness", [IMAGE, IMAGE[:3]], "the input images takes float32 [N, 4, 4, 1]: "),
        ("brightness", 0.5, "the input images is not a list of at least one row"),
        ("brightness", [], "the input images is not a list of at least one row"),
        ("brightness", [IMAGE] * 9, "the input images has 9 rows, and a request may have 8"),
        ("brightness", {"image": [IMAGE]}, "the input images is missing"),
        ("sample", [1], "give each input by its name: seed, temperature"),
        ("sample", {"seed": [1, 2], "temperature": [1]}, "the inputs differ in their numbers of rows: "),
        ("sample", {"seed": [[1]], "temperature": [1]}, "takes int64 [N], and this one has shape [1, 1]"),
        ("reconstruct_png", [{"b64": "?"}], "the input image_bytes takes string [N]: "),
        ("reconstruct_png", [{"b64": 5}], "the input image_bytes takes string [N]: a value is neither text nor"),
        ("reconstruct_png", [{"base64": ""}], "the input image_bytes takes string [N]: a value is neither text nor"),
        ("reconstruct_png", [5], "the input image_bytes takes string [N]: a value is neither text nor"),
        ("reconstruct_png", ["no PNG"], "DecodePng"),  # TensorFlow's own words, about what only the model can see
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_bad_input_is_refused_by_its_name(url, signature, inputs, message):
    assert message in ask(url, {"signature_name": signature, "inputs": inputs}, expected=400)["error"]


def test_other_paths_and_methods_are_refused(url):
    error = ask(url.replace("grey", "gray"), {"instances": [ROW]}, expected=404)["error"]
    assert error == "there is nothing at /v1/models/gray:predict: the model is at /v1/models/grey"
    assert requests.get(url.replace("grey", "gray"), timeout=60).status_code == 404
    error = ask(f"{url}/versions/2", {"instances": [ROW]}, expected=404)["error"]
    assert error == "version 2 is not served here: version 1 is"
    response = requests.get(f"{url}/versions/2", timeout=60)
    assert response.status_code == 404 and response.json() == {"error": error}
    for method, address in (("GET", f"{url}:predict"), ("POST", url), ("DELETE", url)):
        response = requests.request(method, address, timeout=60)
        assert response.status_code == 405 and response.json() == {"error": "Method Not Allowed"}


@pytest.mark.parametrize("chunked", [False, True], ids=["with Content-Length", "chunked"])
def test_an_oversized_body_is_refused(url, chunked):
    def send(size):
        body = b'{"instances": [' + b" " * (size - 15)
        pieces = (body[first : first + 4096] for first in range(0, size, 4096))
        return requests.post(f"{url}:predict", pieces if chunked else body, timeout=60)

    assert send(2**16).status_code == 400, "as large as may be, and no JSON"
    for size in (2**16 + 1, 2**22):
        response = send(size)
        assert response.status_code == 413
        assert response.json() == {"error": "the request has more than 65536 bytes: send fewer rows at a time"}


def test_an_oversized_body_is_refused_while_it_still_comes(url):
    """The sender goes on for ever; only an answer that does not wait for its end is ever read."""
    host, port = url.split("/")[2].split(":")
    head = f"POST /v1/models/grey:predict HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(head.encode())
        for _ in range(17):
            connection.sendall(b"1000\r\n" + b" " * 4096 + b"\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_one_who_hangs_up_leaves_no_trace(url, caplog):
    host, port = url.split("/")[2].split(":")
    for _ in range(5):
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(b"POST /v1/models/grey:predict HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
            time.sleep(0.05)
        ask(url, {"instances": [ROW]})
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


def test_a_fault_of_the_server_is_told_without_its_insides(url, caplog):
    error = ask(url, {"signature_name": "fails", "instances": [0]}, expected=500)["error"]
    assert error == "UnknownError in the server: its log says more"
    while "secret" not in caplog.text:  # it is logged after the answer
        time.sleep(0.01)


# The command


@pytest.mark.slow
def test_the_command_serves_until_it_is_told_to_stop(write_version, tmp_path):
    (tmp_path / "mnist").mkdir()
    write_version(tmp_path / "mnist", 7)
    write_version(tmp_path / "mnist", 10)  # the newest by number, not by name
    command = [sys.executable, "-m", "dvpvae_tf.serve", f"--model={tmp_path / 'mnist'}", "--port=0", "--max-rows=1"]
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=PROJECT, env=environment, **pipes) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("mnist, version 10, is served at http://127.0.0.1:"), process.stderr.read()
            assert line.endswith("in production run TensorFlow Serving\n")
            url = line.split()[6]
            assert url.endswith("/v1/models/mnist")
            assert ask(url, {"instances": [ROW]})["predictions"][0]["images"][0][0][0] == pytest.approx(101 / 255)
            assert "a request may have 1" in ask(url, {"instances": [ROW, ROW]}, expected=400)["error"]
            process.send_signal(signal.SIGINT)
            assert (*process.communicate(timeout=60), process.returncode) == ("", "interrupted\n", 130)
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "nowhere"}, "cannot read the folder nowhere (No such file or directory): give one that export has"),
        ({"model": "empty"}, "empty should hold versions in folders 1, 2, ... and has none: export one"),
        ({"model": "broken"}, "cannot load version 3 of broken ("),
        ({"name": "a/b"}, "a/b cannot stand in a URL"),
        ({"port": "taken"}, "(Address already in use): give another --port or --host"),
        ({"port": 65536}, "cannot listen at 127.0.0.1, port 65536"),
        ({"port": "http"}, "argument --port: invalid int value: 'http'"),
        ({"host": "nowhere.invalid"}, "cannot listen at nowhere.invalid, port 0"),
        ({"max_rows": 0}, "--max-rows: 0 is not a whole number from 1 on"),
        ({"modle": "x"}, "unknown option --modle (did you mean --model?)"),
    ],
    ids=repr,
)
def test_mistakes_give_a_one_line_error(tmp_path, monkeypatch, capsys, changes, message):
    monkeypatch.chdir(tmp_path)
    for folder in ("empty/.writing-1", "broken/1", "broken/3"):
        Path(folder).mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = {"model": "empty", "port": 0} | changes
        if options["port"] == "taken":
            options["port"] = taken.getsockname()[1]
        with pytest.raises(SystemExit) as stop:
            serve.main([f"--{name.replace('_', '-')}={value}" for name, value in options.items()])
    output, error = capsys.readouterr()
    assert stop.value.code == 2 and output == ""
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_the_extra_is_asked_for_where_it_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(SystemExit):
        serve.main([f"--model={tmp_path}"])
    assert capsys.readouterr().err == "error: serving needs uvicorn: pip install -e '.[serving]'\n"
