"""Batches for a local model: requests that wait together go to it together, one batch at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor

from imagetask.errors import GenerationError
from imagetask.images import Image
from imagetask.models.answers import failure_of, type_name
from imagetask.models.base import ImageGenerationModel, ImageRequest


class Batches:
    """Feeds `model.generate` from a queue, in one thread of its own; lives on one event loop."""

    def __init__(self, model: ImageGenerationModel) -> None:
        self._model = model
        self._queue: deque[tuple[ImageRequest, asyncio.Future[Image]]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="imagetask-model")
        self._feeder: asyncio.Task[None] | None = None

    async def agenerate(self, request: ImageRequest) -> Image:
        """The image of one request. Raises what the model raised, or gave in its place."""
        answer: asyncio.Future[Image] = asyncio.get_running_loop().create_future()
        self._queue.append((request, answer))
        if self._feeder is None or self._feeder.done():
            self._feeder = asyncio.create_task(self._feed())
        return await answer

    async def _feed(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(self._model.batch_size, len(self._queue)))]
            requests = [request for request, _ in batch]
            results = await loop.run_in_executor(self._thread, self._generated, requests)
            for (_, answer), result in zip(batch, results, strict=True):
                if answer.done():
                    continue
                if isinstance(result, Image):
                    answer.set_result(result)
                else:
                    answer.set_exception(result)

    def _generated(self, requests: list[ImageRequest]) -> list[Image | GenerationError]:
        """One image or failure for each request, whatever `generate` raises or gives."""
        try:
            results: object = self._model.generate(requests)
        except (Exception, SystemExit) as error:
            return [failure_of(error)] * len(requests)
        name = f"{type(self._model).__name__}.generate"
        if not isinstance(results, list | tuple):
            return [_wrong(name, results)] * len(requests)
        if len(results) != len(requests):
            problem = f"{name} gave {len(results)} results for {len(requests)} requests"
            return [GenerationError("config", problem)] * len(requests)
        return [one if isinstance(one, Image | GenerationError) else _wrong(name, one) for one in results]


def _wrong(name: str, value: object) -> GenerationError:
    problem = f"{name} must return an Image or a GenerationError for each request, not {type_name(value)}"
    return GenerationError("config", problem)
