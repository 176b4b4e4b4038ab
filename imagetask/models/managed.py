"""ManagedModel: any model, with its calls remembered, paced, retried and accounted."""

from __future__ import annotations

import asyncio
import copy
import json
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from imagetask.errors import ErrorKind, GenerationError, RunStopped, StopReason, StorageError
from imagetask.models import MAX_CONCURRENCY
from imagetask.models.attempts import Ask, following
from imagetask.models.base import (
    AsyncImageGenerationModel,
    Generation,
    ImageGenerationModel,
    ImageRequest,
)
from imagetask.models.breakers import Breakers
from imagetask.models.budget import Budget
from imagetask.models.calls import Calls
from imagetask.models.event_loop import event_loop
from imagetask.models.identity import Identity
from imagetask.models.pacing import Pace
from imagetask.models.tally import Tally
from imagetask.redact import one_line
from imagetask.store import GenerationStore, generation_key

Input = str | ImageRequest | GenerationError | None


class ManagedModel:
    """A model as tasks see it: asks the store first, else the backend at a pace it bears; every failure by the table.

    store: where generations are remembered; None remembers nothing. seed: the run's seed.
    max_concurrency: calls under way at once, at most. requests_per_minute: None for as many as the backend admits.
    pace: in place of the two limits, one that models of one account share.
    prices: as `imagetask.models.costs.cost_of` takes them. budget: what may be spent; models may share it.
    breakers: when a run is stopped because too much fails. exact_size: an image of another size than asked is no good.
    other: asked in place of this model for the failed rows of this run that are tried again. This model is asked for
    nothing then, and is not loaded.
    One `ManagedModel` serves all threads of a process; `for_rows` gives each chunk its own view of it.
    """

    def __init__(
        self,
        model: ImageGenerationModel,
        *,
        store: GenerationStore | None = None,
        seed: int = 0,
        max_concurrency: int = MAX_CONCURRENCY,
        requests_per_minute: float | None = None,
        pace: Pace | None = None,
        prices: Mapping[str, float] | None = None,
        budget: Budget | None = None,
        breakers: Breakers | None = None,
        exact_size: bool = False,
        other: ManagedModel | None = None,
    ) -> None:
        self.model = model
        self.store = store
        self.seed = seed
        self.identity = Identity.of(model, seed)
        self._thread = event_loop()
        pace = pace or Pace(max_concurrency, requests_per_minute)
        self._calls = Calls(
            model,
            store,
            pace,
            self._thread,
            prices=prices or {},
            budget=budget or Budget(),
            breakers=breakers or Breakers(),
            exact_size=exact_size,
        )
        self._tally = self._calls.tally
        self._other = other
        self._instead: Sequence[Sequence[Identity]] | None = None
        self._again: Sequence[bool] | None = None
        self._loaded = False
        self._loading = threading.Lock()
        self._owner: ManagedModel | None = None
        self._ordinals: Sequence[int] | None = None
        self.asked: list[list[Generation]] | None = None
        self._counted_here = Tally()

    @property
    def model_name(self) -> str:
        return self.model.model_name

    @property
    def tally(self) -> Tally:
        """What became of the generations so far, over all views."""
        return self._tally

    @property
    def stopped(self) -> RunStopped | None:
        """Why no more calls may be made, or None."""
        return self._calls.stopped

    def uncounted(self) -> ManagedModel:
        """A view whose generations are not counted in the tally: they are looked at once more."""
        view = copy.copy(self)
        view._owner = self._owner or self
        view._tally = Tally()
        return view

    def load(self) -> None:
        """Opens the model's client or weights. Raises `RunStopped` where it cannot, for example for lack of a key."""
        if self._owner is not None:
            self._owner.load()
            return
        with self._loading:
            if not self._loaded:
                self._load()
                self._loaded = True

    def unload(self) -> None:
        """Closes what `load` opened. Through a view it does nothing: other chunks may be using the model."""
        if self._owner is not None:
            return
        with self._loading:
            if self._loaded:
                self._loaded = False
                self._unload()

    def _load(self) -> None:
        try:
            if self.store is not None:
                self.store.check()
            if self._other is not None:
                return
            self.model.load()
            if isinstance(self.model, AsyncImageGenerationModel):
                self._thread.run(self.model.aload())
        except GenerationError as error:
            raise self._calls.stop(error.kind, error.message) from error
        except StorageError as error:
            raise self._calls.stop("storage", str(error)) from error

    def _unload(self) -> None:
        try:
            self._thread.run(self._calls.close())
        finally:
            if self._other is None:
                self._unload_model()

    def _unload_model(self) -> None:
        if isinstance(self.model, AsyncImageGenerationModel):
            self._thread.run(self.model.aunload())
        self.model.unload()

    def stop(self, kind: StopReason, message: str) -> None:
        """No new calls from here on, in this process; what is in flight finishes and is kept."""
        self._thread.loop.call_soon_threadsafe(self._calls.stop, kind, message)

    def __enter__(self) -> ManagedModel:
        self.load()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unload()

    def for_rows(
        self,
        ordinals: Sequence[int],
        again: Sequence[bool] | None = None,
        instead: Sequence[Sequence[Identity]] | None = None,
    ) -> ManagedModel:
        """A view for the rows of one chunk: what is asked of it, in order, are these rows, with these ordinals.

        again: of each row, whether its failures are asked for again; nothing else is asked for then, and what is not
        remembered is pending. None asks for what is not remembered, and again for what failed in a way that may pass.
        instead: of each row, the models and seeds that it was tried again with, the first first, in earlier runs and in
        this one: what they made stands for what failed. None for none.
        The view's `asked` holds the generations of each row that was asked for, in the order of asking.
        """
        view = copy.copy(self)
        view._owner = self._owner or self
        view._ordinals, view._again, view._instead, view.asked = ordinals, again, instead, []
        view._counted_here = Tally()
        return view

    def take_back(self) -> None:
        """Takes out of the tally what this view has added: its rows are going to be asked for again."""
        self._thread.loop.call_soon_threadsafe(self.tally.take_back, self._counted_here)

    def get_generation_kwargs(self) -> dict[str, Any]:
        """The model's own parameters."""
        return self.model.get_generation_kwargs()

    def generate_outputs(
        self, inputs: Sequence[Input], num_generations: int = 1, **kwargs: Any
    ) -> list[list[Generation]]:
        """For each input, its generations in order: n inputs → n lists of `num_generations`.

        kwargs: parameters for every request, before the model's own.
        inputs: a prompt, an `ImageRequest`, or a `GenerationError` for a row that failed before it could be asked.
        A failed generation is in its place, with its kind. Raises `RunStopped` when no more calls may be made.
        """
        self.load()
        defaults = {**self.get_generation_kwargs(), **kwargs}
        wanted = [_request_of(item, defaults) for item in inputs]
        done = self._asked_in_vain(wanted, num_generations)
        valid = [i for i, failed in enumerate(done) if failed is None]
        requests = [request for request in wanted if isinstance(request, ImageRequest)]
        identities = [self.identity.describe(request) for request in requests]
        ordinals = self._ordinals_of(valid, identities)
        first = len(self.asked or ())
        asks = [
            [self._ask(request, identity, ordinal, number, first + row) for number in range(num_generations)]
            for row, request, identity, ordinal in zip(valid, requests, identities, ordinals, strict=True)
        ]
        made = self._thread.run(self._all(asks))
        for i, generations in zip(valid, made, strict=True):
            done[i] = generations
        results = [generations for generations in done if generations is not None]
        if self.asked is not None:
            self.asked.extend(results)
        return results

    def note_task(self, kind: ErrorKind | None, message: str | None = None) -> None:
        """Takes whether the task's own code worked for a row. Raises `RunStopped` where it fails from the start."""
        if not self._calls.started("task"):
            self._thread.run(self._note_task(kind, message))

    async def _note_task(self, kind: ErrorKind | None, message: str | None) -> None:
        self._calls.note_start("task", kind, message)

    async def _all(self, asks: list[list[Ask]]) -> list[list[Generation]]:
        results = await asyncio.gather(*(self._counted(ask) for row in asks for ask in row), return_exceptions=True)
        flat: list[Generation] = []
        for result in results:
            if isinstance(result, BaseException):
                raise result
            flat.append(result)
        size = len(asks[0]) if asks else 1
        return [flat[i : i + size] for i in range(0, len(flat), size)]

    async def _counted(self, ask: Ask) -> Generation:
        generation = await self._answered(ask)
        self._count(generation)
        return generation

    def _count(self, generation: Generation) -> None:
        self.tally.add(generation)
        self._counted_here.add(generation)

    def _asked_in_vain(
        self, wanted: Sequence[ImageRequest | GenerationError], num_generations: int
    ) -> list[list[Generation] | None]:
        """The failed generations of what cannot be asked for; None for what can."""
        found: list[list[Generation] | None] = []
        for error in wanted:
            if isinstance(error, ImageRequest):
                found.append(None)
                continue
            name = self.model_name
            failed = [
                Generation(name, generation=number, error_kind=error.kind, error_message=error.message)
                for number in range(num_generations)
            ]
            for generation in failed:
                self._thread.loop.call_soon_threadsafe(self._count, generation)
            found.append(failed)
        return found

    def _ordinals_of(self, positions: Sequence[int], identities: Sequence[Mapping[str, Any]]) -> list[int]:
        """From the plan where there is one; else the how-many-eth of its equals among these inputs each one is."""
        if self._ordinals is not None and self.asked is not None:
            return [self._ordinals[len(self.asked) + i] for i in positions]
        seen: Counter[str] = Counter()
        ordinals = []
        for identity in identities:
            key = generation_key(identity)
            ordinals.append(seen[key])
            seen[key] += 1
        return ordinals

    def _ask(self, request: ImageRequest, described: Mapping[str, Any], ordinal: int, number: int, row: int) -> Ask:
        """row: of this view's."""
        ask = self.identity.ask(request, described, ordinal, number)
        again = None if self._again is None else self._again[row]
        if not self._instead:
            return replace(ask, again=again)
        others = (one.ask(request, one.describe(request), ordinal, number) for one in self._instead[row])
        keys = dict.fromkeys(other.key for other in others)
        return replace(ask, again=again, instead=tuple(key for key in keys if key != ask.key))

    async def _answered(self, ask: Ask) -> Generation:
        """By the model itself; or, where a failed row is tried again with another, by that one."""
        other = self._other
        if other is None or not ask.again:
            return await self._calls.generation(ask)
        asked = other.identity.ask(ask.request, other.identity.describe(ask.request), ask.ordinal, ask.generation)
        before = tuple(key for key in ask.instead if key != asked.key)
        if asked.key == ask.key:  # the same model and seed, on another server or with another account
            return await other._calls.generation(replace(asked, again=True, instead=before))
        own = await self._calls.generation(replace(ask, again=False, instead=before))
        if own.status == "done":
            return own
        made = await other._calls.generation(replace(asked, again=True))
        if own.status == "pending":
            return made
        if made.status == "pending":
            return following(replace(own, error_kind=None, error_message=None), made)
        return following(made, own)


def _request_of(item: Input, defaults: Mapping[str, Any]) -> ImageRequest | GenerationError:
    """An input as a request that has `defaults` where it says nothing itself; or why it cannot be asked for."""
    if isinstance(item, GenerationError):
        return item
    if failure := _unfit_prompt(item.prompt if isinstance(item, ImageRequest) else item):
        return failure
    request = (item if isinstance(item, ImageRequest) else ImageRequest(str(item))).with_defaults(defaults)
    return _unfit_parameter(request) or request


def _unfit_prompt(prompt: object) -> GenerationError | None:
    if prompt is None:
        return GenerationError("invalid_input", "the prompt is null")
    if not isinstance(prompt, str):
        return GenerationError("invalid_input", f"the prompt is no text but {type(prompt).__name__}")
    return None if prompt.strip() else GenerationError("invalid_input", "the prompt is empty")


def _unfit_parameter(request: ImageRequest) -> GenerationError | None:
    """Neither key nor record could hold a parameter that is not JSON: its image would be paid for and lost."""
    for name, value in {**request.parameters(), "seed": request.seed}.items():
        try:
            json.dumps(value, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            return GenerationError("invalid_input", one_line(f"the parameter {name!r} is not JSON: {error}"))
    return None
