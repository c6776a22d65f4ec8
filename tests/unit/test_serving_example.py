"""examples/serving: the service on a real socket, with good, wrong and many requests."""

import io
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load

from colport import Encoder
from tests.conftest import ROOT
from tests.page_models import page

httpx = pytest.importorskip("httpx", reason="envs/dev.txt has it")
uvicorn = pytest.importorskip("uvicorn", reason="envs/dev.txt has it")
pytest.importorskip("fastapi", reason="envs/dev.txt has it")
pytest.importorskip("python_multipart", reason="envs/dev.txt has it")

sys.path.insert(0, str(ROOT / "examples/serving"))
import service  # noqa: E402

LIMITS = service.Limits(
    request_bytes=2_000_000, page_pixels=200_000, inputs=8, batch=6, request_pixels=500_000
)


class Serving:
    """The service in a thread; a client, the encoder behind it, and the batches that it got."""

    def __init__(self, folder, limits=LIMITS):
        self.encoder = Encoder(folder, threads=1, workers=1)
        self.batches, self.fault = [], None
        real = {kind: getattr(self.encoder, f"encode_{kind}") for kind in ("queries", "documents")}
        self.direct = real

        def watched(kind):
            def encode(inputs):
                self.batches.append(len(inputs))
                if self.fault:
                    raise self.fault
                return real[kind](inputs)

            return encode

        for kind in real:
            setattr(self.encoder, f"encode_{kind}", watched(kind))
        app = service.create_app(lambda: self.encoder, limits)
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical")
        self.server = uvicorn.Server(config)

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        deadline = time.monotonic() + 60
        while not self.server.started:
            assert self.thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        fresh = httpx.Limits(max_keepalive_connections=0)  # one may end while it is taken again
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, limits=fresh)
        return self

    def __exit__(self, *_):
        self.client.close()
        self.server.should_exit = True
        self.thread.join(10)

    def texts(self, path, *texts):
        return self.client.post(path, json={"texts": texts})

    def pages(self, *contents):
        return self.client.post("/pages", files=[("pages", ("a", content)) for content in contents])


@pytest.fixture(scope="module")
def of_pages(exported):
    with Serving(exported["colpali"]) as serving:
        yield serving


@pytest.fixture(scope="module")
def of_passages(exported):
    with Serving(exported["colbert"]) as serving:
        yield serving


def png(image):
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


PAGES = [page(90, 120, seed=seed) for seed in range(3)]


def answered(response):
    assert response.status_code == 200, response.text
    found = load(response.content)
    return [found[str(place)] for place in range(len(found))]


def assert_equal(found, expected, tolerance=0.0):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance, rtol=0)


def refused(response, status, message):
    assert response.status_code == status
    assert re.fullmatch(message, response.json()["detail"]), response.text


def lives(serving):
    assert serving.client.get("/health").json() == {"status": "ok"}
    ready = serving.client.get("/ready").json()
    assert ready == {"status": "ok", "model": serving.encoder.manifest.digest}
    assert_equal(answered(serving.texts("/queries", "x")), serving.direct["queries"](["x"]))


def test_embeddings_are_the_encoder_s(of_pages, of_passages):
    queries = ["a query", "another, longer query"]
    for serving in (of_pages, of_passages):
        found = answered(serving.texts("/queries", *queries))
        assert_equal(found, serving.direct["queries"](queries))
    found = answered(of_pages.pages(*map(png, PAGES)))
    assert_equal(found, of_pages.direct["documents"](PAGES))
    found = answered(of_passages.texts("/passages", *queries))
    assert_equal(found, of_passages.direct["documents"](queries))


def test_many_requests_at_once_get_what_each_gets_alone(of_pages):
    texts = [" ".join(["word"] * (1 + number % 7)) + f" {number}" for number in range(60)]
    expected = {text: of_pages.direct["queries"]([text]) for text in texts}
    pictures = {number: of_pages.direct["documents"]([PAGES[number]]) for number in range(3)}
    of_pages.batches.clear()

    def call(number):
        if number % 4 == 3:
            found = answered(of_pages.pages(png(PAGES[number % 3])))
            assert_equal(found, pictures[number % 3], 1e-5)
        else:
            found = answered(of_pages.texts("/queries", texts[number]))
            assert_equal(found, expected[texts[number]], 1e-5)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(call, range(60)))
    assert sum(of_pages.batches) == 60
    assert max(of_pages.batches) > 1  # requests shared batches
    assert max(of_pages.batches) <= LIMITS.batch


BROKEN = {
    "no image": b"no image",
    "nothing": b"",
    "cut": png(PAGES[0])[:200],
    "an animation": (
        lambda s: (PAGES[0].save(s, "GIF", save_all=True, append_images=PAGES[1:]), s)[1]
    )(io.BytesIO()).getvalue(),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_page_is_named(of_pages, broken):
    response = of_pages.pages(png(PAGES[0]), BROKEN[broken])
    refused(response, 422, r"pages\[1\]: is (no image|an image that|an animation of) .*\.")
    lives(of_pages)


def test_too_much_of_anything(of_pages):
    small = png(Image.new("RGB", (20, 20)))
    refused(of_pages.pages(*[small] * 9), 413, "A request may have 8 inputs.")
    refused(of_pages.pages(*[small] * 1000), 413, "A request may have 8 inputs.")
    refused(of_pages.texts("/queries", *["a"] * 9), 413, "A request may have 8 inputs.")
    refused(of_pages.pages(bytes(3_000_000)), 413, "A request may have 2000000 bytes.")
    stream = iter([b'{"texts": ["', *[b"a" * 500_000] * 6, b'"]}'])  # without a stated length
    response = of_pages.client.post("/queries", content=stream)
    refused(response, 413, "A request may have 2000000 bytes.")
    refused(of_pages.pages(png(Image.new("1", (900, 900)))), 413, "A page may have 200000 pixels.")
    large = png(Image.new("1", (440, 440)))
    refused(of_pages.pages(large, large, large), 413, "A request may have 500000 pixels.")
    lives(of_pages)


def test_bodies_that_are_none(of_pages, of_passages):
    post = of_pages.client.post
    for content in (
        b"",
        b"{",
        b"[]",
        b'{"texts": "a"}',
        b'{"texts": [1]}',
        b'{"text": ["a"]}',
        b"\xff",
    ):
        refused(post("/queries", content=content), 422, 'The body has to be {"texts": .* in JSON.')
    refused(post("/queries", json={"texts": []}), 422, "The request holds no input.")
    refused(post("/pages", data={"a": "b"}), 422, "The request holds no input.")
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    assert post("/pages", content=b"--y", headers=kind).status_code in (400, 422)
    refused(of_pages.texts("/passages", "a"), 404, "This model takes pages: POST /pages.")
    refused(of_passages.pages(b"a"), 404, "This model takes passages: POST /passages.")
    lives(of_pages)
    lives(of_passages)


def test_what_the_encoder_refuses_costs_that_request_alone(of_pages, monkeypatch):
    """Two requests share a batch, and the encoder refuses one's second input."""
    from colport.base.errors import InputError

    real = of_pages.direct["queries"]

    def refuses(inputs):
        of_pages.batches.append(len(inputs))
        for place, text in enumerate(inputs):
            if text == "bad":
                raise InputError("queries", place, "is bad")
        return real(inputs)

    waits = service.Batcher(refuses, _lock(), service.Limits(wait_s=0.05))
    found = _together(waits, ["good"], ["fine", "bad"], ["bad"], ["last"])
    assert_equal(found[0], real(["good"]), 1e-5)
    assert [str(error) for error in found[1:3]] == ["queries[1]: is bad.", "queries[0]: is bad."]
    assert_equal(found[3], real(["last"]), 1e-5)


def _lock():
    import asyncio

    return asyncio.Lock()


def _together(batcher, *requests):
    import asyncio

    async def run():
        worker = asyncio.create_task(batcher.work())
        found = await asyncio.gather(*map(batcher, requests), return_exceptions=True)
        worker.cancel()
        return found

    return asyncio.run(run())


def test_a_full_queue_asks_to_come_back():
    slow = service.Batcher(
        lambda inputs: time.sleep(0.05) or inputs, _lock(), service.Limits(waiting=3)
    )
    found = _together(slow, ["a", "b"], ["c"], ["d"])
    assert found[:2] == [["a", "b"], ["c"]]
    assert (found[2].status_code, found[2].headers) == (503, {"Retry-After": "1"})


def test_a_fault_of_the_service_is_one_and_it_lives_on(of_pages):
    of_pages.fault = RuntimeError("a secret of ours")
    try:
        refused(of_pages.texts("/queries", "a"), 500, "The service failed; its log says why.")
    finally:
        of_pages.fault = None
    lives(of_pages)


def test_a_folder_that_is_none_does_not_start(monkeypatch, tmp_path):
    monkeypatch.setenv("COLPORT_FOLDER", str(tmp_path))
    config = uvicorn.Config(service.from_env(), host="127.0.0.1", port=0, log_level="critical")
    with pytest.raises(SystemExit):
        uvicorn.Server(config).run()


def test_requirements_are_those_that_are_tested():
    pinned = (ROOT / "envs/dev.txt").read_text()
    named = re.findall(
        r"^[\w-]+==\S+", (ROOT / "examples/serving/requirements.txt").read_text(), re.M
    )
    assert len(named) == 4
    assert all(re.search(rf"^{re.escape(line)}\b", pinned, re.M) for line in named)
