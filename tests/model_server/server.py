"""The model server: real HTTP on loopback, in a thread of the tests or in a process of its own."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from tests.model_server.answers import SIGNATURE, Asked, file_answer, paint, picture_answer, read_call, spoiled_answer
from tests.model_server.behaviour import Answers, Behaviour, Latency
from tests.model_server.faults import BROKEN, FAILURES, SLOW, SPOILED, Fault, failure_answer
from tests.model_server.http11 import BACKLOG, HOST, Answer, Ending, HttpConnection, Request, Send, json_answer
from tests.model_server.ledger import Call, CallReader, Counts
from tests.model_server.pictures import ImageFormat, Picture, PictureMaker

T = TypeVar("T")


@dataclass(slots=True)
class Result:
    """A picture behind a URL. missing: how many more times it is not there."""

    picture: Picture
    call: Call
    missing: int


class ModelServer(Behaviour, CallReader):
    """A model server that speaks both wires, counts every call, and can be slow and fail in every way.

    POST …/images/generations is the OpenAI wire, any other POST the Hugging Face wire. How it behaves: `Behaviour`;
    what it saw: `CallReader`. `with ModelServer() as server:` runs it in a thread.

    size: px of a picture, where the call does not ask. image_kib: what each file weighs (KiB), None for small ones.
    """

    def __init__(
        self,
        *,
        latency: Latency = 0.0,
        format: ImageFormat = "png",
        answers: Answers = "auto",
        require_key: str | None = None,
        rejects: Iterable[str] = (),
        size: tuple[int, int] | None = None,
        image_kib: int | None = None,
        port: int = 0,
    ) -> None:
        super().__init__(latency=latency, format=format, answers=answers, require_key=require_key, rejects=rejects)
        side = 64 if image_kib is None else 256 if image_kib < 24 else 512 if image_kib < 512 else 1024
        self._maker = PictureMaker(size or (side, side), image_kib)
        self._maker.make(format, None, ())  # the shared part is painted before the first call
        self._port = port
        self._asked: Counter[tuple[str, str, str]] = Counter()
        self._pictures: dict[str, Picture] = {}
        self._results: dict[str, Result] = {}
        self._connections: set[HttpConnection] = set()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event
        self.in_flight = 0
        self._empty_ledger()

    def __enter__(self) -> ModelServer:
        ready = threading.Event()
        self._thread = threading.Thread(target=self.serve, args=(ready.set,), name="model-server", daemon=True)
        self._thread.start()
        if not ready.wait(30):
            raise RuntimeError("the model server did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Closes every connection and the port; calls in flight are cut off. The ledger can still be read."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
        if self._thread is not None:
            self._thread.join(30)
            self._thread = None

    def serve(self, ready: Callable[[], None]) -> None:
        """Serves in this thread until `stop`; calls `ready` when it listens."""
        asyncio.run(self._serve(ready))

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._port}"

    @property
    def calls(self) -> list[Call]:
        return self._settled(lambda: list(self._calls))

    @property
    def max_in_flight(self) -> int:
        """The most calls that were being answered at one time."""
        return self._max_in_flight

    def counts(self) -> Counts:
        return self._settled(self._count)

    def reset(self) -> None:
        self._settled(self._empty_ledger)

    def image_bytes(self, sha256: str) -> bytes:
        """The bytes of a picture that was in an answer. Raises `KeyError` for any other."""
        return self._pictures[sha256].data

    async def _serve(self, ready: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        listening = await loop.create_server(
            lambda: HttpConnection(self._handle, self._connections), HOST, self._port, backlog=BACKLOG
        )
        self._port = listening.sockets[0].getsockname()[1]
        self._loop = loop
        ready()
        await self._stopping.wait()
        self._loop = None
        listening.close()
        for connection in list(self._connections):
            connection.abort()
        while self._connections:
            await asyncio.sleep(0)
        await listening.wait_closed()

    def _settled(self, read: Callable[[], T]) -> T:
        """What `read` gives once the loop has noted all that a client may already have seen."""
        loop = self._loop
        if loop is None:
            return read()
        return asyncio.run_coroutine_threadsafe(_after_notes(read), loop).result(30)

    def _empty_ledger(self) -> None:
        self._calls: list[Call] = []
        self._rejected = 0
        self._max_in_flight = self.in_flight

    def _count(self) -> Counts:
        delivered = sum(call.delivered for call in self._calls)
        return Counts(len(self._calls), delivered, self.in_flight, self._max_in_flight, self._rejected)

    async def _handle(self, request: Request, send: Send) -> None:
        if request.path.startswith("/_"):
            await send(await _after_notes(lambda: self._control(request)))
        elif request.path.startswith("/results/"):
            await self._fetch(request, send)
        elif request.method != "POST":
            await send(json_answer({"error": "not found"}, 404))
        elif (asked := read_call(request)) is None:
            self._note(request, Asked("openai", "", "", {}, None, None, None, False, 1)).status = 400
            await send(json_answer({"error": {"message": "the body has no prompt", "code": "bad_body"}}, 400))
        else:
            await self._answer(asked, self._note(request, asked), send)

    def _note(self, request: Request, asked: Asked) -> Call:
        call = Call(
            number=len(self._calls) + 1,
            time=time.time(),
            path=request.path,
            wire=asked.wire,
            model=asked.model,
            prompt=asked.prompt,
            seed=asked.seed,
            body=asked.body,
            authorization=request.headers.get("authorization"),
        )
        self._calls.append(call)
        return call

    async def _answer(self, asked: Asked, call: Call, send: Send) -> None:
        key = (call.authorization or "").removeprefix("Bearer ")
        fault = self.rejection(self.in_flight)
        self._rejected += fault is not None
        self.in_flight += fault is None
        self._max_in_flight = max(self._max_in_flight, self.in_flight)
        let_in = fault is None
        started = time.monotonic()
        try:
            fault = fault or self.fault_for(asked.prompt, key, asked.body)
            call.fault = fault.name if fault else None
            await self._wait(asked, fault)
            answer = self._answer_for(asked, call, fault, key)
            call.status = None if answer.cut == 0 else answer.status
            await send(answer)
            call.delivered = call.sha256 is not None and answer.cut is None and not self._behind_url(asked, fault)
        finally:
            call.seconds = time.monotonic() - started
            self.in_flight -= let_in

    async def _wait(self, asked: Asked, fault: Fault | None) -> None:
        seconds = self.latency_for(asked.prompt) if fault is None or fault.name in SPOILED else 0.0
        if fault is not None and fault.latency is not None:
            seconds = fault.latency
        if seconds > 0:
            await asyncio.sleep(seconds)

    def _answer_for(self, asked: Asked, call: Call, fault: Fault | None, key: str) -> Answer:
        if fault is not None and fault.name in FAILURES:
            return failure_answer(fault, asked.wire, model=asked.model, key=key)
        who = (asked.model, asked.prompt, json.dumps(asked.seed))
        self._asked[who] += 1
        pictures = paint(asked, self._maker, self.format, 1 if self.repeatable else self._asked[who], fault)
        if fault is not None and (spoiled := spoiled_answer(asked, fault, pictures[0])) is not None:
            return spoiled
        if fault is not None and fault.name in BROKEN:
            whole = picture_answer(asked, pictures, [])
            ending: Ending = "reset" if fault.name == "reset" else "hang"
            return Answer(200, whole.body, whole.content_type, cut=fault.after_bytes, ending=ending)
        self._pictures.update((picture.sha256, picture) for picture in pictures)
        call.sha256 = pictures[0].sha256
        missing = fault.times if fault and fault.name == "result_gone" else 0
        urls = self._put_results(pictures, call, missing) if self._behind_url(asked, fault) else []
        answer = picture_answer(asked, pictures, urls)
        return replace(answer, over=fault.seconds) if fault is not None and fault.name in SLOW else answer

    def _behind_url(self, asked: Asked, fault: Fault | None) -> bool:
        wanted = self.answers == "url" or (self.answers == "auto" and asked.as_url)
        return asked.wire == "openai" and (wanted or (fault is not None and fault.name == "result_gone"))

    def _put_results(self, pictures: Iterable[Picture], call: Call, missing: int) -> list[str]:
        urls = []
        for picture in pictures:
            name = f"{len(self._results) + 1:06d}.{picture.format}"
            self._results[name] = Result(picture, call, missing)
            urls.append(f"{self.url}/results/{name}?sig={SIGNATURE}")
        return urls

    async def _fetch(self, request: Request, send: Send) -> None:
        result = self._results.get(request.path.removeprefix("/results/"))
        if request.query != f"sig={SIGNATURE}":
            await send(json_answer({"error": "the signature does not match"}, 403))
        elif result is None or result.missing > 0:
            if result is not None:
                result.missing -= 1
            await send(json_answer({"error": "the result does not exist or has expired"}, 404))
        else:
            await send(file_answer(result.picture))
            result.call.delivered = True

    def _control(self, request: Request) -> Answer:
        name = request.path.removeprefix("/_")
        if name == "ledger":
            return json_answer([asdict(call) for call in self._calls])
        if name == "counts":
            return json_answer(asdict(self._count()))
        if name.startswith("image/") and (picture := self._pictures.get(name.removeprefix("image/"))) is not None:
            return file_answer(picture)
        if name == "reset" and request.method == "POST":
            self._empty_ledger()
            return json_answer({})
        if name == "behaviour" and request.method == "POST":
            return self._behave(request.body)
        return json_answer({"error": "not found"}, 404)

    def _behave(self, body: bytes) -> Answer:
        with suppress(ValueError, TypeError, KeyError):
            settings: dict[str, Any] = json.loads(body)
            self.behave(settings)
            return json_answer({})
        return json_answer({"error": "this is no behaviour"}, 400)


async def _after_notes(read: Callable[[], T]) -> T:
    """Lets tasks that have just sent their last byte note it, then reads."""
    for _ in range(2):
        await asyncio.sleep(0)
    return read()
