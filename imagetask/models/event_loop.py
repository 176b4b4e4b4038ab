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
STORE_THREADS = 32
"""Of each kind, which wait for an object store: at 50 ms for a request, 640 requests a second."""


class EventLoopThread:
    """A running event loop, with threads for work that must not hold it up.

    Client libraries make follow-up calls in the loop's default executor: it has 64 threads, since some providers
    need one for each call in flight (huggingface_hub 2.4: fal-ai, replicate, wavespeed, zai-org).

    image_threads: for what needs a processor.
    """

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_default_executor(ThreadPoolExecutor(_CLIENT_THREADS, thread_name_prefix="imagetask-client"))
        self.image_threads = ThreadPoolExecutor(IMAGE_THREADS, thread_name_prefix="imagetask-image")
        self._folder_reader = ThreadPoolExecutor(1, thread_name_prefix="imagetask-look-up")
        self._store_readers = ThreadPoolExecutor(STORE_THREADS, thread_name_prefix="imagetask-store-read")
        self._store_writers = ThreadPoolExecutor(STORE_THREADS, thread_name_prefix="imagetask-store-write")
        threading.Thread(target=self.loop.run_forever, name="imagetask-calls", daemon=True).start()

    def store_readers(self, remote: bool) -> ThreadPoolExecutor:
        """For looking into a store. Its readers are not its writers: all rows of a chunk are looked up at once, and the
        images of the chunk before would wait for them.

        remote: the store is a network away; one in a folder answers at once, and one thread is enough.
        """
        return self._store_readers if remote else self._folder_reader

    def store_writers(self, remote: bool) -> ThreadPoolExecutor:
        """For writing into a store; into a folder by those that check the images."""
        return self._store_writers if remote else self.image_threads

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
