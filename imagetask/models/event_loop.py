"""The event loop that all calls of a process share, in a thread of its own."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")

IMAGE_THREADS = 2 * (os.cpu_count() or 1)
_CLIENT_THREADS = 64


class EventLoopThread:
    """A running event loop, with threads for work that must not hold it up.

    Client libraries make follow-up calls in the loop's default executor: it has 64 threads, since some providers
    need one for each call in flight (huggingface_hub 2.4: fal-ai, replicate, wavespeed, zai-org).
    """

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_default_executor(ThreadPoolExecutor(_CLIENT_THREADS, thread_name_prefix="imagetask-client"))
        self.image_threads = ThreadPoolExecutor(IMAGE_THREADS, thread_name_prefix="imagetask-image")
        threading.Thread(target=self.loop.run_forever, name="imagetask-calls", daemon=True).start()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs `work` on the loop and waits for it; an interrupt cancels it."""
        future = self.submit(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise


@cache
def event_loop() -> EventLoopThread:
    """The one of this process."""
    return EventLoopThread()
