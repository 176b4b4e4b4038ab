"""The models of the runs in this process: one for each run and model, shared by all of the run's chunks."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imagetask.errors import StopReason, UsageError
from imagetask.models import load_model, model_class, split_model
from imagetask.models.base import ImageGenerationModel
from imagetask.models.breakers import Breakers
from imagetask.models.budget import Budget
from imagetask.models.identity import Identity
from imagetask.models.managed import ManagedModel
from imagetask.models.pacing import Pace
from imagetask.models.tally import Tally
from imagetask.parts import finished_chunks
from imagetask.retrying import Retry
from imagetask.runs import Counts
from imagetask.settings import RunSettings
from imagetask.store import GenerationStore

if TYPE_CHECKING:
    from imagetask.blocks import BackendBlock

_lock = threading.Lock()
_models: dict[tuple[str, str], ManagedModel] = {}
_paces: dict[tuple[str, str], Pace] = {}
"""Of a run and a backend: its models are asked with one account, and share what that bears."""
_budgets: dict[str, Budget] = {}
"""Of a run: what all of its models together may spend."""
_stopped: dict[str, tuple[StopReason, str]] = {}
"""For good: a chunk of a stopped run that is still under way opens no model anew."""
_closed: dict[str, tuple[list[Tally], bool]] = {}
"""What became of the generations of the runs that were closed last; and whether their budget was reached."""
_REMEMBERED = 8


def open_model(settings: RunSettings, model: str, run: str, retry: Retry | None = None) -> ManagedModel:
    """The run's model in this process, opened at first use. Raises `UsageError`, `RunStopped`, `StorageError`."""
    with _lock:
        managed = _models.get((run, model))
        if managed is None and retry is not None and retry.elsewhere:
            managed = _opened(_unasked(settings, model, retry, _other(settings, model, run, retry)), run, model)
        elif managed is None:
            managed = _opened(_asked(settings, model, run), run, model)
        return managed


def _opened(managed: ManagedModel, run: str, name: str) -> ManagedModel:
    _models[run, name] = managed
    if run in _stopped:
        managed.stop(*_stopped[run])
    managed.load()
    return managed


def _asked(settings: RunSettings, model: str, run: str) -> ManagedModel:
    account = account_of(settings, model)
    return managed_model(
        settings,
        model,
        account,
        pace=_paces.setdefault((run, split_model(model)[0]), account.pace()),
        budget=_budget_of(run, settings),
        proven=_gave_images(settings, model),
    )


def _other(settings: RunSettings, model: str, run: str, retry: Retry) -> ManagedModel:
    """What is asked in place of a run's model: one for all of the run's models for which it is the same."""
    identity = identity_instead(settings, model, retry)
    name = f"instead: {identity}"
    managed = _models.get((run, name))
    if managed is None:
        managed = _asked(retry.settings_for(settings, model), retry.model or model, run)
        managed.identity = identity
    return _opened(managed, run, name)


def _unasked(settings: RunSettings, model: str, retry: Retry, other: ManagedModel) -> ManagedModel:
    """The run's own model, of which only what it made before is looked up."""
    return ManagedModel(
        named_model(settings, model, retry),
        store=GenerationStore(settings.store_url),
        seed=settings.seed,
        breakers=Breakers(proven=_gave_images(settings, model)),
        other=other,
    )


def identity_instead(settings: RunSettings, model: str, retry: Retry) -> Identity:
    """What names the model and the seed that failed rows of a run's model are tried again with."""
    changed = retry.settings_for(settings, model)
    return Identity.of(make_model(changed, changed.model[0]), changed.seed, seed_first=retry.seed is not None)


def _budget_of(run: str, settings: RunSettings) -> Budget:
    if run not in _budgets:
        _budgets[run] = budget_of(settings)
    return _budgets[run]


def budget_of(settings: RunSettings) -> Budget:
    """What the dataset may still cost. The caller holds its folder. Raises `StorageError`."""
    return Budget(max_images=settings.max_images, max_cost=settings.max_cost, ledger=settings.layout.spent)


def budget_reached(run: str) -> bool:
    """Whether the run, in this process, has left a call unmade since it might have cost more than the budget."""
    budget = _budgets.get(run)
    return _closed.get(run, ([], False))[1] if budget is None else budget.reached


def _gave_images(settings: RunSettings, model: str) -> bool:
    """Whether the folder has images of the model."""
    parts = (manifest for chunk, manifest in finished_chunks(settings.layout) if chunk.model == model)
    return any(Counts.of([manifest]).done for manifest in parts)


@dataclass(frozen=True, slots=True)
class Account:
    """With what a run asks the models of a backend: the block that it names, and the limits that hold for all of them.

    block: None where the run names none, or the backend takes no credentials.
    """

    block: BackendBlock | None
    max_concurrency: int
    requests_per_minute: float | None

    @property
    def prices(self) -> Mapping[str, float]:
        return self.block.prices if self.block is not None else {}

    def pace(self) -> Pace:
        return Pace(self.max_concurrency, self.requests_per_minute)


def account_of(settings: RunSettings, model: str) -> Account:
    """Loads the block, and gives what holds: the lower of the run's and the account's limits. Raises `UsageError`."""
    block = _block_of(settings, model)
    at_once, per_minute = settings.max_concurrency, settings.requests_per_minute
    if block is not None and block.max_concurrency is not None:
        at_once = min(at_once, block.max_concurrency)
    if block is not None and block.requests_per_minute is not None:
        per_minute = min(per_minute or math.inf, block.requests_per_minute)
    return Account(block, at_once, per_minute)


def managed_model(
    settings: RunSettings,
    model: str,
    account: Account,
    *,
    pace: Pace | None = None,
    budget: Budget | None = None,
    proven: bool = False,
) -> ManagedModel:
    """The model as the settings describe it, with its store, not yet loaded.

    pace, budget: those that it shares with others; default: a pace of its own, and no limit to what is spent.
    proven: as `Breakers` takes it. Raises `UsageError`.
    """
    return ManagedModel(
        _made(settings, model, account.block),
        store=GenerationStore(settings.store_url),
        seed=settings.seed,
        pace=pace or account.pace(),
        prices=account.prices,
        budget=budget,
        breakers=Breakers(settings.max_failed_share, settings.max_refused_share, proven=proven),
        exact_size=settings.exact_size,
    )


def make_model(settings: RunSettings, model: str) -> ImageGenerationModel:
    """The backend's model, with the credentials of the block that the settings name. Raises `UsageError`."""
    return _made(settings, model, _block_of(settings, model))


def named_model(settings: RunSettings, model: str, retry: Retry | None = None) -> ImageGenerationModel:
    """A model of the run, as keys name it. Where another is asked in its place its block may be gone.

    Raises `UsageError`.
    """
    try:
        return make_model(settings, model)
    except UsageError:
        if retry is None or not retry.elsewhere or settings.credentials is None or split_model(model)[1] is None:
            raise
        return _made(settings, model, None)


def _block_of(settings: RunSettings, model: str) -> BackendBlock | None:
    """The block that the settings name; of several models those that take no key have none."""
    backend = split_model(model)[0]
    if settings.credentials is None:
        return None
    if len(settings.model) > 1 and "api_key" not in model_class(backend).model_fields:
        return None
    from imagetask.blocks import load_block

    return load_block(backend, settings.credentials)


def _made(settings: RunSettings, model: str, block: BackendBlock | None) -> ImageGenerationModel:
    """Where a run has several models, what is said for all of them goes to those that take it."""
    backend, model_id = split_model(model)
    if block is not None and block.api_key is not None and settings.base_url not in (None, block.base_url):
        raise UsageError(
            f"--base-url {settings.base_url}: the key of the block {settings.credentials} is sent only to the server "
            "that the block names: write the URL into the block"
        )
    options = {
        "base_url": settings.base_url,
        "timeout": settings.timeout,
        "generation_kwargs": settings.generation_kwargs() or None,
    }
    if len(settings.model) > 1:
        takes = model_class(backend).model_fields
        options = {name: value for name, value in options.items() if name in takes}
    return load_model(model, **options) if block is None else block.get_model(model_id, **options)


def stop_models(run: str, kind: StopReason, message: str) -> None:
    """No new calls by the run in this process."""
    _stopped[run] = (kind, message)
    for (owner, _), managed in list(_models.items()):
        if owner == run:
            managed.stop(kind, message)


@contextmanager
def closing_models(run: str) -> Iterator[None]:
    """Closes all of the run's models in this process at its end. Raises `RunStopped` where one cannot be closed."""
    try:
        yield
    finally:
        with _lock:
            _closed[run] = tallies(run), budget_reached(run)
            closing = [_models.pop(key) for key in list(_models) if key[0] == run]
            for key in [key for key in _paces if key[0] == run]:
                del _paces[key]
            _budgets.pop(run, None)
            for old in list(_closed)[:-_REMEMBERED]:
                del _closed[old]
        with ExitStack() as each:
            for managed in closing:
                each.callback(managed.unload)


def tallies(run: str) -> list[Tally]:
    """What became of the run's generations in this process, one tally for each model."""
    closed, _ = _closed.get(run, ([], False))
    return closed or [managed.tally for (owner, _), managed in list(_models.items()) if owner == run]
