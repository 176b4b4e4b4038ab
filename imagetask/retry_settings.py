"""Retry: which failed rows are tried again, and with what. Settings alone: no row is read here."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from imagetask.errors import ErrorKind, UsageError
from imagetask.models import model_class, split_model
from imagetask.settings import RunSettings, what_is_wrong

LIMITS = (
    *("max_images", "max_cost", "max_concurrency", "requests_per_minute", "timeout"),
    *("max_failed", "max_failed_share", "max_refused_share"),
    *("runner", "dask_address"),
)
"""Settings of the last run that a retry may be given anew."""


class Retry(BaseModel):
    """What is to be tried again, and with what in place of the run's own."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    kind: list[ErrorKind] = Field(
        default_factory=list,
        description="Kinds of failures to try again; default: all, also those that a further run would not ask again.",
    )
    model: str | None = Field(
        default=None, description="BACKEND:MODEL_ID to ask in place of the one that failed; default: the run's own."
    )
    seed: int | None = Field(default=None, ge=0, description="Seed to take in place of the run's.")
    base_url: str | None = Field(
        default=None, description="URL of the server of the given model, where it is not the backend's own."
    )
    credentials: str | None = Field(default=None, description="Name of a saved block of the given model's backend.")

    @classmethod
    def checked(cls, **fields: Any) -> Retry:
        """The retry, or a `UsageError` of one sentence that names the option."""
        try:
            retry = cls(**fields)
        except ValidationError as error:
            field, why = what_is_wrong(error)
            raise UsageError(f"--{field.replace('_', '-')}: {why or 'there is no such option'}") from None
        for name in ("base_url", "credentials"):
            if retry.model is None and getattr(retry, name) is not None:
                raise UsageError(
                    f"--{name.replace('_', '-')} goes with a --model: name the run's own to ask it elsewhere"
                )
        return retry

    @property
    def elsewhere(self) -> bool:
        """Whether another model, or another seed, is asked than the run's own."""
        return self.model is not None or self.seed is not None

    def settings_for(self, settings: RunSettings, model: str) -> RunSettings:
        """The settings with which the failed rows of one of a run's models are asked for.

        Credentials and URL are the run's, where it asks the backend itself and the backend takes them: with another
        model they are the same for all models of the run. Raises `UsageError`.
        """
        tried = self.model or model
        changed: dict[str, Any] = {"model": [tried]}
        backend = split_model(tried)[0]
        asked = backend in {split_model(one)[0] for one in settings.model}
        takes = model_class(backend).model_fields
        changed |= {} if asked and "base_url" in takes else {"base_url": None}
        changed |= {} if asked and "api_key" in takes else {"credentials": None}
        for name in ("seed", "base_url", "credentials"):
            if getattr(self, name) is not None:
                changed[name] = getattr(self, name)
        return RunSettings.checked(**{**settings.model_dump(), **changed})


def retry_descriptions() -> dict[str, str]:
    """What each parameter of a retry is for: the fields of `Retry`, and `LIMITS`, by default the last run's."""
    own = {name: field.description or "" for name, field in Retry.model_fields.items()}
    limits = {name: RunSettings.model_fields[name].description or "" for name in LIMITS}
    return own | {name: f"{text.partition('; default:')[0].rstrip('.')}." for name, text in limits.items()}
