"""The service against a model that can be computed by hand, and against everything strangers send."""

import asyncio
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from serving_fake import LABELS, TEMPERATURE, WINDOW, expected, write_model

from llmchain.product import serving
from llmchain.product.serving import (
    BoundedPool,
    Limits,
    Refusal,
    calibrated,
    check_text,
    create_app,
    discard_body,
    listen,
    model_version,
    ordered_labels,
    parse_json,
    running_service,
    texts_of,
)

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def client(folder: Path):
    with TestClient(create_app(folder), raise_server_exceptions=False) as client:
        yield client


def error_of(response: httpx.Response) -> tuple[int, str, str]:
    "(status, code, where) of an answer that must have exactly the one error shape."
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"} and set(body["error"]) == {"code", "message", "where"}
    assert "Traceback" not in response.text and ".py" not in response.text
    return response.status_code, body["error"]["code"], body["error"]["where"]


# ── numbers ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("words", [["joy"], ["sorrow"], ["the", "film", "was", "joy"]])
def test_probabilities_are_those_computed_by_hand(client: TestClient, words: list[str]) -> None:
    reply = client.post("/predict", json={"text": " ".join(words)}).json()
    wanted = expected(words)
    assert list(reply["probabilities"]) == LABELS
    np.testing.assert_allclose(list(reply["probabilities"].values()), wanted, rtol=1e-6)
    assert reply["label"] == LABELS[wanted.argmax()]
    assert reply["probability"] == max(reply["probabilities"].values())
    assert reply["n_tokens"] == len(words) + 2 and reply["truncated"] is False


def test_batch_answers_in_order_and_like_alone(client: TestClient) -> None:
    texts = ["joy", "sorrow", "the film", "joy joy sorrow"]
    batch = client.post("/predict", json={"texts": texts}).json()["predictions"]
    alone = [client.post("/predict", json={"text": text}).json() for text in texts]
    for together, single in zip(batch, alone, strict=True):
        assert together == {name: single[name] for name in together}


def test_softmax_is_over_classes_and_divides_by_the_temperature() -> None:
    logits = np.array([[1.0, 3.0, 2.0], [0.0, 0.0, 900.0]])
    powers = np.exp((logits - logits.max(1, keepdims=True)) / 2.5)
    np.testing.assert_allclose(calibrated(logits, 2.5), powers / powers.sum(1, keepdims=True))
    with pytest.raises(ValueError, match="above 0, got -1"):
        calibrated(logits, -1)


def test_labels_are_sorted_as_numbers() -> None:
    config = {"id2label": {str(k): f"c{k}" for k in range(12)}}
    assert ordered_labels(config) == [f"c{k}" for k in range(12)]
    with pytest.raises(ValueError, match="without a gap"):
        ordered_labels({"id2label": {"0": "a", "2": "b"}})


def test_truncation_is_reported_exactly_at_the_window(client: TestClient) -> None:
    fits = client.post("/predict", json={"text": "joy " * (WINDOW - 2)}).json()
    cut = client.post("/predict", json={"text": "joy " * (WINDOW - 1)}).json()
    assert (fits["truncated"], fits["n_tokens"]) == (False, WINDOW)
    assert (cut["truncated"], cut["n_tokens"]) == (True, WINDOW)


def test_window_is_that_of_the_calibration(tmp_path: Path) -> None:
    short = write_model(tmp_path / "short")
    facts = {"temperature": TEMPERATURE, "max_tokens": 5}
    (short / "calibration.json").write_text(json.dumps(facts))
    reply = serving.OnnxClassifier(short).predict("joy joy joy sorrow sorrow sorrow")
    assert (reply.n_tokens, reply.truncated, reply.label) == (5, True, "good")


def test_version_follows_the_bytes(client: TestClient, folder: Path, tmp_path: Path) -> None:
    version = client.post("/predict", json={"text": "joy"}).json()["model_version"]
    assert re.fullmatch("[0-9a-f]{64}", version) and version == model_version(folder)
    assert client.get("/healthz").json() == {
        "status": "ok",
        "model_version": version,
        "labels": LABELS,
    }
    other = write_model(tmp_path / "other")
    assert model_version(other) == version
    (other / "calibration.json").write_text(json.dumps({"temperature": TEMPERATURE + 1}))
    assert model_version(other) != version


def test_missing_file_names_the_chapter(tmp_path: Path) -> None:
    broken = write_model(tmp_path / "broken")
    (broken / "calibration.json").unlink()
    with pytest.raises(FileNotFoundError, match="calibration.json.*llmchain run 28_quantize"):
        create_app(broken)


def test_no_torch_in_the_serving_process(folder: Path) -> None:
    code = (
        "import sys; from fastapi.testclient import TestClient; "
        "from llmchain.product.serving import create_app; "
        "client = TestClient(create_app(sys.argv[1])); "
        "assert client.post('/predict', json={'text': 'joy'}).status_code == 200; "
        "print(sorted({'torch', 'transformers', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    words = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


# ── what strangers send ──────────────────────────────────────────────────────────────────────────

BAD_BODIES = [
    (b"", 400, "invalid_json", "body"),
    (b"{text: 1}", 400, "invalid_json", "body"),
    (b'{"text": "a"} x', 400, "invalid_json", "body"),
    (b'{"text": NaN}', 400, "invalid_json", "body"),
    (b'{"text": "a", "text": "b"}', 400, "invalid_json", "body"),
    (b"[" * 50_000, 400, "invalid_json", "body"),
    (b'{"a":' * 10_000, 400, "invalid_json", "body"),
    (b"1" * 6_000, 400, "invalid_json", "body"),
    (b'{"text": "\xff\xfe"}', 400, "invalid_utf8", "body"),
    (b'{"text": "a\\u0000b"}', 400, "invalid_character", "text"),
    (b'{"texts": ["a", "\\ud800"]}', 400, "invalid_character", "texts[1]"),
    (b'"text"', 422, "wrong_type", "body"),
    (b"null", 422, "wrong_type", "body"),
    (b"{}", 422, "missing_text", "body"),
    (b'{"text": "a", "texts": ["b"]}', 422, "missing_text", "body"),
    (b'{"text": "a", "texst": 1}', 422, "unknown_key", "body"),
    (b'{"text": null}', 422, "wrong_type", "text"),
    (b'{"text": ["a"]}', 422, "wrong_type", "text"),
    (b'{"texts": "a"}', 422, "wrong_type", "texts"),
    (b'{"texts": []}', 422, "empty_list", "texts"),
    (b'{"texts": ["a", true]}', 422, "wrong_type", "texts[1]"),
    (b'{"text": " \\n "}', 422, "empty_text", "text"),
    (b'{"texts": ["joy", "\\u200b"]}', 422, "empty_text", "texts[1]"),
    (json.dumps({"text": "x" * 2001}).encode(), 422, "text_too_long", "text"),
    (json.dumps({"texts": ["x"] * 65}).encode(), 422, "too_many_texts", "texts"),
]


@pytest.mark.parametrize("body, status, code, where", BAD_BODIES, ids=lambda v: str(v)[:24])
def test_bad_bodies(client: TestClient, body: bytes, status: int, code: str, where: str) -> None:
    assert error_of(client.post("/predict", content=body, headers=JSON)) == (status, code, where)


def test_limits_themselves_are_allowed(client: TestClient) -> None:
    assert client.post("/predict", json={"texts": ["joy"] * 64}).status_code == 200
    assert client.post("/predict", json={"text": "x" * 2000}).status_code == 200
    padded = b'{"text": "joy"}'.ljust(65_536)
    assert client.post("/predict", content=padded, headers=JSON).status_code == 200
    too_large = client.post("/predict", content=padded + b" ", headers=JSON)
    assert error_of(too_large) == (413, "body_too_large", "body")


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1"]
)  # fmt: skip
def test_content_types(client: TestClient, kind: str) -> None:
    response = client.post("/predict", content=b'{"text": "joy"}', headers={"content-type": kind})
    assert error_of(response) == (415, "wrong_content_type", "header Content-Type")


def test_json_with_charset_is_json(client: TestClient) -> None:
    kind = {"content-type": 'Application/JSON; charset="UTF-8"'}
    assert client.post("/predict", content=b'{"text": "joy"}', headers=kind).status_code == 200
    packed = client.post("/predict", content=b"x", headers={**JSON, "content-encoding": "gzip"})
    assert error_of(packed)[:2] == (415, "wrong_encoding")


def test_paths_and_methods(client: TestClient) -> None:
    assert error_of(client.get("/nothing/here")) == (404, "unknown_path", "path")
    assert error_of(client.post("/predict/", json={"text": "joy"})) == (404, "unknown_path", "path")
    wrong = client.get("/predict")
    assert error_of(wrong) == (405, "wrong_method", "method")
    assert wrong.headers["allow"] == "POST"
    assert error_of(client.delete("/healthz"))[0] == 405


def test_a_bug_of_ours_is_500_with_an_id_that_the_log_knows(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(serving.OnnxClassifier, "logits", lambda self, encoding: np.zeros(3))
    app = create_app(folder)
    monkeypatch.setattr(serving, "predict_all", broken)
    with caplog.at_level(logging.ERROR), TestClient(app, raise_server_exceptions=False) as client:
        response = client.post("/predict", json={"text": "joy"})
        metrics = client.get("/metrics").text
    assert error_of(response) == (500, "internal_error", "service")
    assert "secret" not in response.text
    identity = re.search("as ([0-9a-f]{12})", response.json()["error"]["message"])[1]
    assert identity in caplog.text and "secret detail" in caplog.text
    assert 'status="500"} 1.0' in metrics


# ── bodies that lie, come slowly, or never end ───────────────────────────────────────────────────


def send_asgi(app, chunks: list[bytes], headers: dict[str, str], pause: float = 0.0) -> tuple:
    "(status, error body, chunks taken) of a POST whose body comes in `chunks`, through bare ASGI."
    taken, sent = [], []

    async def receive() -> dict:
        await asyncio.sleep(pause)
        if len(taken) >= len(chunks):
            return {"type": "http.disconnect"}
        taken.append(1)
        return {
            "type": "http.request",
            "body": chunks[len(taken) - 1],
            "more_body": len(taken) < len(chunks),
        }

    async def send(event: dict) -> None:
        sent.append((event, len(taken)))

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/predict",
        "raw_path": b"/predict",
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "http_version": "1.1",
        "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
        "server": ("testserver", 80),
        "client": ("testclient", 1),
        "extensions": {},
    }
    asyncio.run(app(scope, receive, send))
    start, taken_at_answer = sent[0]
    body = b"".join(event.get("body", b"") for event, _ in sent)
    return start["status"], json.loads(body)["error"]["code"], taken_at_answer


def test_announced_size_is_refused_before_reading(folder: Path) -> None:
    headers = {**JSON, "content-length": "10000000"}
    status, code, taken = send_asgi(create_app(folder), [b"x" * 1000] * 10, headers)
    assert (status, code, taken) == (413, "body_too_large", 0)


def test_unannounced_size_is_counted_while_it_comes(folder: Path) -> None:
    headers = {**JSON, "transfer-encoding": "chunked"}
    status, code, taken = send_asgi(create_app(folder), [b"x" * 10_000] * 1000, headers)
    assert (status, code, taken) == (413, "body_too_large", 7)


def test_slow_body_is_given_up(folder: Path) -> None:
    app = create_app(folder, Limits(read_seconds=0.2))
    headers = {**JSON, "transfer-encoding": "chunked"}
    status, code, _ = send_asgi(app, [b"{"] * 40, headers, pause=0.05)
    assert (status, code) == (408, "body_too_slow")


def test_discarding_ends() -> None:
    async def forever() -> dict:
        return {"type": "http.request", "body": b"x" * 1000, "more_body": True}

    async def never() -> dict:
        await asyncio.sleep(60)
        return {}

    asyncio.run(discard_body(forever, max_bytes=10_000))
    started = time.perf_counter()
    asyncio.run(discard_body(never, seconds=0.1))
    assert time.perf_counter() - started < 5


# ── too many at once ─────────────────────────────────────────────────────────────────────────────


def test_full_queue_is_503_and_places_come_back(folder: Path, monkeypatch) -> None:
    gate, original = threading.Event(), serving.predict_all

    def slow(*arguments: object) -> object:
        assert gate.wait(30)
        return original(*arguments)

    monkeypatch.setattr(serving, "predict_all", slow)
    app = create_app(folder, Limits(max_waiting=2))

    async def storm() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            calls = [
                asyncio.create_task(client.post("/predict", json={"text": "joy"})) for _ in range(6)
            ]
            refused, _ = await asyncio.wait(calls, timeout=5, return_when="FIRST_COMPLETED")
            while sum(call.done() for call in calls) < 4:
                await asyncio.sleep(0.01)
            gate.set()
            return [await call for call in calls] + [
                await client.post("/predict", json={"text": "joy"})
            ]

    *answers, after = asyncio.run(asyncio.wait_for(storm(), 30))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 503, 503, 503, 503]
    busy = next(answer for answer in answers if answer.status_code == 503)
    assert error_of(busy) == (503, "busy", "service") and busy.headers["retry-after"] == "1"
    assert after.status_code == 200


def test_a_failing_inference_gives_its_place_back() -> None:
    async def work() -> int:
        pool = BoundedPool(1, 1)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await pool.run(lambda: 1 / 0)
        try:
            return await pool.run(lambda: 7)
        finally:
            pool.close()

    assert asyncio.run(work()) == 7


def test_limits_must_be_positive() -> None:
    with pytest.raises(ValueError, match=r"max_texts \(0\), read_seconds \(-1\)"):
        Limits(max_texts=0, read_seconds=-1)


# ── metrics, pages, headers ──────────────────────────────────────────────────────────────────────


def test_metrics_count_what_was_sent_and_belong_to_one_app(
    client: TestClient, folder: Path
) -> None:
    client.post("/predict", json={"texts": ["joy", "joy", "sorrow " * 30]})
    client.get("/invented/by/a/stranger")
    text = client.get("/metrics").text
    assert 'llmchain_predictions_total{label="good"} 2.0' in text
    assert 'llmchain_predictions_total{label="bad"} 1.0' in text
    assert 'llmchain_predictions_total{label="neutral"} 0.0' in text
    assert "llmchain_text_characters_count 3.0" in text and "llmchain_batch_size_sum 3.0" in text
    assert "llmchain_truncated_texts_total 1.0" in text
    assert 'route="other",status="404"} 1.0' in text and "stranger" not in text
    assert 'llmchain_request_seconds_count{route="/predict"} 1.0' in text
    with TestClient(create_app(folder)) as second:
        assert 'label="good"} 0.0' in second.get("/metrics").text


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_name_no_other_host_and_forbid_everything_else(client: TestClient, path: str) -> None:
    response = client.get(path)
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    assert not re.findall(r"(?:https?:)?//[a-z0-9.]+", response.text)
    assert response.headers["x-content-type-options"] == "nosniff"


def test_docs_tell_all_routes_and_statuses(client: TestClient) -> None:
    page = client.get("/docs").text
    document = client.get("/openapi.json").json()
    assert set(document["paths"]) == {"/predict", "/healthz", "/metrics"}
    for part in ("POST /predict", "GET /healthz", "GET /metrics", "413", "503", "minItems"):
        assert part in page


def test_every_answer_has_the_security_headers(client: TestClient) -> None:
    for response in (client.get("/healthz"), client.get("/x"), client.post("/predict")):
        assert response.headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in response.headers["content-security-policy"]


# ── a real process ───────────────────────────────────────────────────────────────────────────────


def test_process_survives_10_mb_and_stops_gracefully(folder: Path) -> None:
    with running_service(folder) as service:
        with httpx.Client(base_url=service.url, timeout=20) as client:
            announced = client.post("/predict", content=b"x" * 10_000_000, headers=JSON)
            chunks = (b"x" * 50_000 for _ in range(200))
            streamed = client.post("/predict", content=chunks, headers=JSON)
            assert error_of(announced)[0] == error_of(streamed)[0] == 413
            assert client.get("/healthz").json()["status"] == "ok"
            assert client.post("/predict", json={"text": "joy"}).json()["label"] == "good"
    assert service.process.returncode == 0


def test_port_in_use_is_one_line(folder: Path) -> None:
    taken = listen("127.0.0.1", 0)
    port = taken.getsockname()[1]
    code = "import sys; from llmchain.product.serving import serve; serve(sys.argv[1], port=int(sys.argv[2]))"
    words = [sys.executable, "-c", code, str(folder), str(port)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, env={**os.environ})
    taken.close()
    assert done.returncode == 1
    assert f"serve: cannot listen on 127.0.0.1 port {port}" in done.stderr.splitlines()[-1]


# ── properties ───────────────────────────────────────────────────────────────────────────────────

hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is in the extra dev")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(deadline=None, max_examples=200)
@given(VALUES | st.fixed_dictionaries({"text": VALUES}) | st.fixed_dictionaries({"texts": VALUES}))
def test_any_json_is_texts_or_a_refusal(value: object) -> None:
    try:
        texts = texts_of(value, Limits())
    except Refusal as refusal:
        assert refusal.status in (400, 422)
        refusal.response().body.decode("utf-8")
    else:
        assert texts and all(check_text(text, "text", 2000) == text for text in texts)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=60))
def test_any_bytes_are_json_or_a_refusal(body: bytes) -> None:
    try:
        parse_json(body)
    except Refusal as refusal:
        assert refusal.status == 400
        refusal.response().body.decode("utf-8")
