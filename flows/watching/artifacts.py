"""What one sees of a run in Prefect's UI while it goes on: how far it is, and its newest images."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient

from imagetask.errors import StorageError
from imagetask.layout import write_whole
from imagetask.markdown import code, picture
from imagetask.redact import told
from imagetask.settings import RunSettings

from ..models_in_use import budget_reached
from ..monitoring import Progress
from ..outcome import Ending, ended_early, finished
from .contact_sheets import SHOWN_NEWEST, NewestImages
from .posting import RunArtifact, artifact_key, impatient_client
from .progress_text import progress_text
from .telling import is_cancelled

logger = logging.getLogger(__name__)

_REST = 10.0
_LONGEST_REST = 120.0
"""After an update there is a rest of so many times what it took, but no longer than this (seconds)."""


@dataclass(frozen=True, slots=True)
class Seconds:
    """progress, images, state: between two updates, and two looks at the run's state, where the server is quick.

    moment: between two looks at how far the run is. answer: what one answer of the server may take. end: what the end
    of the run waits for the last updates, at most.
    """

    progress: float = 5.0
    images: float = 15.0
    state: float = 5.0
    moment: float = 1.0
    answer: float = 5.0
    end: float = 5.0


SECONDS = Seconds()


@contextmanager
def live_artifacts(
    settings: RunSettings,
    progress: Progress,
    on_cancel: Callable[[], None] = lambda: None,
    seconds: Seconds | None = None,
) -> Iterator[None]:
    """Keeps the run's artifacts up to date, from a thread of its own: its progress, and its newest images.

    on_cancel: called once, in that thread, when the run is cancelled on the server. seconds: default `SECONDS`.
    A server that is slow or gone gets fewer updates, and does the run no harm.
    """
    seconds = seconds or SECONDS
    live = _Live(settings, progress, on_cancel, seconds)
    thread = threading.Thread(target=copy_context().run, args=(live.keep_up,), name="imagetask-artifacts", daemon=True)
    thread.start()
    try:
        yield
    except BaseException as error:
        live.end(ended_early(error))
        raise
    else:
        reached = budget_reached(progress.run)
        live.end(finished(progress.counts, settings, budget_reached=reached) if progress.counts else None)
    finally:
        thread.join(seconds.end)


class _Live:
    """The thread's work."""

    def __init__(
        self, settings: RunSettings, progress: Progress, on_cancel: Callable[[], None], seconds: Seconds
    ) -> None:
        self._settings = settings
        self._progress = progress
        self._on_cancel = on_cancel
        self._seconds = seconds
        self._ending: Ending | None = None
        self._ended = threading.Event()
        self._images = NewestImages()
        self._shown: list[str] = []
        self._file_trouble = _Trouble("the picture of the newest images was not written")
        name = settings.out.name
        self._text = RunArtifact(progress.run, artifact_key("progress", name), "How far the run is")
        self._pictures = RunArtifact(progress.run, artifact_key("images", name), "The newest images of the run")

    def end(self, ending: Ending | None) -> None:
        """The last update tells how the run ended."""
        self._ending = ending
        self._ended.set()

    def keep_up(self) -> None:
        """Updates until the run ends, and then once more."""
        try:
            with impatient_client(self._seconds.answer) as client:
                self._keep_up(client)
        except Exception as error:
            _Trouble("the artifacts of the run are not kept up").tell(error)

    def _keep_up(self, client: SyncPrefectClient) -> None:
        seconds = self._seconds
        state = _Repeated(seconds.state, lambda: self._look_at_state(client))
        moment = _Repeated(0.0, self._note_moment)
        shown = [
            _Repeated(seconds.progress, lambda: self._put_text(client)),
            _Repeated(seconds.images, lambda: self._put_images(client)),
        ]
        while not self._ended.wait(seconds.moment):
            for work in (state, moment, *shown):
                if not self._ended.is_set():
                    work.do_if_due()
        moment.do()
        all(work.do() for work in shown)  # the second only where the server took the first

    def _note_moment(self) -> bool:
        self._progress.note_moment()
        return True

    def _put_text(self, client: SyncPrefectClient) -> bool:
        ending = self._ending if self._ended.is_set() else None
        self._text.put(client, progress_text(self._settings, self._progress, ending))
        return True

    def _put_images(self, client: SyncPrefectClient) -> bool:
        newest = self._progress.newest(SHOWN_NEWEST)
        keys = [one.key for one in newest]
        sheet = self._images.sheet(newest) if keys != self._shown else None
        if sheet is None:
            return False
        path = self._settings.layout.newest
        here = f"This picture: {code(path)}; all" if self._written(path, sheet) else "All"
        made, store = self._progress.images, self._settings.store_url
        meaning = f"Contact sheet of the {len(newest):,} newest of {made:,} images"
        below = f"The {len(newest):,} newest of {made:,} images, the newest first."
        places = f"{here} images in full size: {code(store)}"
        self._pictures.put(client, f"{picture(sheet, meaning)}\n\n{below} {places}\n")
        self._shown = keys
        return True

    def _written(self, path: Path, sheet: bytes) -> bool:
        """Whether the disk took the sheet; where not, the artifact has it all the same."""
        try:
            write_whole(path, sheet)
        except StorageError as error:
            self._file_trouble.tell(error)
            return False
        return True

    def _look_at_state(self, client: SyncPrefectClient) -> bool:
        if not self._progress.cancelled and is_cancelled(client, self._progress.run):
            self._on_cancel()
            self._progress.cancelled = True
        return True


class _Trouble:
    """Goes to the log: as a warning the first time, then for debugging. The run goes on."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._level = logging.WARNING

    def tell(self, error: Exception) -> None:
        logger.log(self._level, "%s: %s", self._what, told(error))
        self._level = logging.DEBUG


class _Repeated:
    """Something to be done every so many seconds; more rarely where it takes long, and skipped where it fails.

    work: gives whether there was something to do; where not, it is asked again the next time.
    """

    def __init__(self, seconds: float, work: Callable[[], bool]) -> None:
        self._seconds = seconds
        self._work = work
        self._due = 0.0
        self._trouble = _Trouble("an artifact was not updated")

    def do_if_due(self) -> None:
        if time.monotonic() >= self._due:
            self.do()

    def do(self) -> bool:
        """Does it now; gives whether it went well."""
        started, did, well = time.monotonic(), True, True
        try:
            did = self._work()
        except Exception as error:
            well = False
            self._trouble.tell(error)
        ended = time.monotonic()
        if did:
            self._due = ended + max(self._seconds, min(_REST * (ended - started), _LONGEST_REST))
        return well
