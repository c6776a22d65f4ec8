"""Embeddings over HTTP: an exported folder behind FastAPI. docs/serving.md explains it.

Requests that wait together share a batch, one batch runs at a time, and what is wrong with one
request is answered to that request alone. Embeddings come as a safetensors file, exact to the bit.

    COLPORT_FOLDER=exported/colpali uvicorn --app-dir examples/serving --factory service:from_env
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from safetensors.numpy import save
from starlette.exceptions import HTTPException

from colport import Encoder
from colport.base.errors import InputError
from colport.data.images import PageError, decode, decode_errors, open_image

_BUSY = {"Retry-After": "1"}


@dataclass(frozen=True)
class Limits:
    """What a request may ask for, and how requests share batches."""

    request_bytes: int = 64 * 2**20
    page_pixels: int = 50_000_000
    request_pixels: int = 100_000_000
    """Of all its pages: each takes 4 bytes of memory while the request waits."""
    inputs: int = 64
    """Texts or pages of a request."""
    batch: int = 16
    """Inputs of a batch; a request with more is a batch of its own."""
    wait_s: float = 0.002
    """How long a batch waits for further requests."""
    waiting: int = 256
    """Inputs that may wait; a request beyond them is told to come back."""


@dataclass(eq=False)
class Job:
    """One request that waits for its embeddings."""

    inputs: Sequence[Any]
    done: asyncio.Future = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def answer(self, found: Any) -> None:
        """Give it its embeddings or an error, unless its client has left."""
        if not self.done.done():
            is_error = isinstance(found, Exception)
            (self.done.set_exception if is_error else self.done.set_result)(found)


class Batcher:
    """Puts the inputs of requests that wait together into one call of the encoder.

    Args:
        encode: From inputs to one array each.
        turn: Held while a batch runs, since a batch takes all threads.
        limits: See :class:`Limits`.
    """

    def __init__(self, encode: Callable[..., Any], turn: asyncio.Lock, limits: Limits) -> None:
        self._encode, self._turn, self._limits = encode, turn, limits
        self._jobs: asyncio.Queue[Job] = asyncio.Queue()
        self._waiting = 0

    async def __call__(self, inputs: Sequence[Any]) -> Any:
        """Embeddings of one request's inputs."""
        if self._waiting and self._waiting + len(inputs) > self._limits.waiting:
            raise HTTPException(503, "Too many inputs are waiting; try again.", _BUSY)
        job = Job(inputs)
        self._waiting += len(inputs)
        try:
            self._jobs.put_nowait(job)
            return await job.done
        finally:
            self._waiting -= len(inputs)

    async def work(self) -> None:
        """Form batches and run them, for as long as the service lives."""
        following = None
        while True:
            jobs = [following or await self._jobs.get()]
            following, room = None, self._limits.batch - len(jobs[0].inputs)
            async with self._turn:
                await asyncio.sleep(self._limits.wait_s)
                while following is None and not self._jobs.empty():
                    job = self._jobs.get_nowait()
                    room -= len(job.inputs)
                    if room < 0:
                        following = job
                    else:
                        jobs.append(job)
                await self._run([job for job in jobs if not job.done.done()])

    async def _run(self, jobs: list[Job]) -> None:
        while jobs:
            together = [(job, place) for job in jobs for place in range(len(job.inputs))]
            try:
                inputs = [job.inputs[place] for job, place in together]
                found = iter(await asyncio.to_thread(self._encode, inputs))
            except InputError as error:  # of one request; the others run again without it
                job, place = together[error.index or 0]
                job.answer(InputError(error.argument, place, error.reason))
                jobs.remove(job)
            except Exception as error:  # noqa: BLE001 - each request gets it, and is logged with it
                for job in jobs:
                    job.answer(error)
                return
            else:
                for job in jobs:
                    job.answer([next(found) for _ in job.inputs])
                return


class Bounded:
    """Ends the reading of a body that has too many bytes, whether it states its length or not."""

    def __init__(self, app: Any, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """As ASGI calls it."""
        stated = dict(scope.get("headers", ())).get(b"content-length", b"0")
        left = self._most if int(stated) <= self._most else -1

        async def counted() -> Any:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, f"A request may have {self._most} bytes.")
            return message

        await self._app(scope, counted if scope["type"] == "http" else receive, send)


class Texts(BaseModel):
    """The body of a request with texts."""

    texts: list[str]


def create_app(load: Callable[[], Encoder], limits: Limits | None = None) -> FastAPI:
    """The service.

    Args:
        load: Opens the encoder; the service does not start without it.
        limits: What requests may ask for.
    """
    limits = limits or Limits()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        encoder, turn = await asyncio.to_thread(load), asyncio.Lock()
        await asyncio.to_thread(encoder.encode_queries, ["a first query takes longer"])
        app.state.encoder = encoder
        app.state.queries = Batcher(encoder.encode_queries, turn, limits)
        app.state.documents = Batcher(encoder.encode_documents, turn, limits)
        batchers = (app.state.queries, app.state.documents)
        app.state.workers = [asyncio.create_task(batcher.work()) for batcher in batchers]
        yield
        for worker in app.state.workers:
            worker.cancel()

    app = FastAPI(title="ColPort", lifespan=lifespan)
    app.add_middleware(Bounded, most=limits.request_bytes)

    @app.exception_handler(InputError)
    async def refused(request: Request, error: InputError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(Exception)  # uvicorn logs it
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": "The service failed; its log says why."}, 500)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        """Whether requests are encoded, and by which model."""
        if any(worker.done() for worker in app.state.workers):
            raise HTTPException(503, "Requests are no longer encoded; restart the service.")
        return {"status": "ok", "model": app.state.encoder.manifest.digest}

    @app.post("/queries")
    async def queries(request: Request) -> Response:
        """Embeddings of ``{"texts": […]}``."""
        return embeddings(await app.state.queries(await texts(request)))

    @app.post("/passages")
    async def passages(request: Request) -> Response:
        """The same for documents of a model of passages."""
        check("passages")
        return embeddings(await app.state.documents(await texts(request)))

    @app.post("/pages")
    async def pages(request: Request) -> Response:
        """Embeddings of the image files of a form, for a model of pages."""
        check("pages")
        try:
            async with request.form(max_files=limits.inputs) as form:
                files = [item for _, item in form.multi_items() if hasattr(item, "filename")]
                contents = counted([await file.read() for file in files])
        except HTTPException as error:
            if "Too many files" in error.detail:
                raise HTTPException(413, f"A request may have {limits.inputs} inputs.") from error
            raise
        images, pixels = [], 0
        for item in enumerate(contents):
            images.append(await asyncio.to_thread(page, *item))
            pixels += images[-1].width * images[-1].height
            if pixels > limits.request_pixels:
                raise HTTPException(413, f"A request may have {limits.request_pixels} pixels.")
        return embeddings(await app.state.documents(images))

    def check(kind: str) -> None:
        if (own := app.state.encoder.document_type) != kind:
            raise HTTPException(404, f"This model takes {own}: POST /{own}.")

    async def texts(request: Request) -> list[str]:
        try:
            return counted(Texts.model_validate_json(await request.body()).texts)
        except ValidationError as error:
            raise HTTPException(422, 'The body has to be {"texts": […]} in JSON.') from error

    def counted(inputs: list[Any]) -> list[Any]:
        if not inputs:
            raise HTTPException(422, "The request holds no input.")
        if len(inputs) > limits.inputs:
            raise HTTPException(413, f"A request may have {limits.inputs} inputs.")
        return inputs

    def page(place: int, content: bytes) -> Any:
        try:
            with open_image(BytesIO(content)) as image:
                width, height = image.size
            if width * height > limits.page_pixels:
                raise HTTPException(413, f"A page may have {limits.page_pixels} pixels.")
            return decode(BytesIO(content))
        except PageError as error:
            raise InputError("pages", place, str(error)) from error
        except decode_errors() as error:
            raise InputError("pages", place, f"is no image that can be read ({error})") from error

    def embeddings(found: Sequence[Any]) -> Response:
        content = save({str(place): tokens for place, tokens in enumerate(found)})
        return Response(content, media_type="application/octet-stream")

    return app


def from_env() -> FastAPI:
    """The service of the folder that the environment names."""
    folder, provider = os.environ["COLPORT_FOLDER"], os.environ.get("COLPORT_PROVIDER", "cpu")
    threads = int(os.environ.get("COLPORT_THREADS", "0")) or None
    return create_app(lambda: Encoder(folder, provider, threads=threads, workers=1))
