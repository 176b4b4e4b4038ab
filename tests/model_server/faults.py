"""Every way to fail that FAILURES.md names, by name, as the two wires say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.model_server.http11 import Answer, json_answer

Wire = Literal["openai", "huggingface"]


@dataclass(frozen=True, slots=True)
class Failure:
    """An answer that is an error, in words that services use.

    message, code, type, param: the body on the OpenAI wire. said_by_hub: the words on the Hugging Face wire, where they
    differ. `{model}`, `{key}` and `{wait}` (seconds) are filled in.
    """

    status: int
    message: str
    code: str | None = None
    type: str = "invalid_request_error"
    param: str | None = None
    said_by_hub: str | None = None
    retry_after: float | None = None


_SAFETY = (
    "Your request was rejected as a result of our safety system. "
    "Your request may contain content that is not allowed by our safety system."
)

FAILURES: Mapping[str, Failure] = {
    "unauthorized": Failure(
        401,
        "Incorrect API key provided: {key}. You can find your API key in your account settings.",
        code="invalid_api_key",
        said_by_hub="Invalid credentials in Authorization header: {key}",
    ),
    "unverified_organization": Failure(
        403,
        "Your organization must be verified to use the model `{model}`. Please go to the organization settings and "
        "click on Verify Organization. If you just verified, it can take up to 15 minutes for access to propagate.",
    ),
    "payment_required": Failure(
        402,
        "Payment required: the account has no credit left.",
        said_by_hub="You have exceeded your monthly included credits for Inference Providers.",
    ),
    "insufficient_quota": Failure(
        429,
        "You exceeded your current quota, please check your plan and billing details.",
        code="insufficient_quota",
        type="insufficient_quota",
        said_by_hub="insufficient_quota: You exceeded your current quota, please check your plan and billing details.",
    ),
    "billing_hard_limit": Failure(
        400,
        "Billing hard limit has been reached",
        code="billing_hard_limit_reached",
        type="image_generation_user_error",
    ),
    "account_blocked": Failure(
        403,
        "Your resource has been temporarily blocked because we detected behavior that may violate our content policy.",
        code="Forbidden",
    ),
    "rate_limited": Failure(
        429,
        "Rate limit reached for {model} on images per min. Please slow down.",
        code="rate_limit_exceeded",
        type="requests",
        said_by_hub="Rate limit reached. Please log in or use a token.",
        retry_after=0.1,
    ),
    "rate_limited_text": Failure(
        429,
        "Rate limit reached for {model} on images per min: Limit 50, Used 50, Requested 1. "
        "Please try again in 232ms. Visit your limits page to learn more.",
        code="rate_limit_exceeded",
        type="requests",
    ),
    "rate_limited_long": Failure(
        429,
        "Rate limit reached for {model} on images per day.",
        code="rate_limit_exceeded",
        type="requests",
        retry_after=3600,
    ),
    "loading": Failure(503, "Model {model} is currently loading", code="model_loading", type="server_error"),
    "scaled_to_zero": Failure(
        503,
        "503 Service Unavailable: the endpoint is scaled to zero and is starting",
        type="server_error",
        said_by_hub="503 Service Unavailable",
    ),
    "paused": Failure(
        400,
        "Bad Request: the endpoint is paused, ask a maintainer to restart it",
        said_by_hub="Bad Request: Invalid state: endpoint is paused",
    ),
    "server_error": Failure(
        500, "The server had an error while processing your request. Sorry about that!", type="server_error"
    ),
    "bad_gateway": Failure(502, "Bad gateway", type="server_error"),
    "unavailable": Failure(503, "The engine is currently overloaded, please try again later", type="server_error"),
    "gateway_timeout": Failure(504, "Gateway timeout", type="server_error"),
    "refused": Failure(400, _SAFETY, code="moderation_blocked", type="image_generation_user_error"),
    "content_policy": Failure(400, _SAFETY, code="content_policy_violation"),
    "unknown_parameter": Failure(
        400,
        "Unknown parameter: '{param}'.",
        code="unknown_parameter",
        param="response_format",
        said_by_hub="Bad Request: unexpected keyword argument '{param}'",
    ),
    "model_not_found": Failure(
        404,
        "The model `{model}` does not exist or you do not have access to it.",
        code="model_not_found",
        said_by_hub="Model {model} not found",
    ),
    "gone": Failure(410, "The model {model} is no longer served here.", code="model_gone"),
    "prompt_too_long": Failure(
        413,
        "Invalid 'prompt': string too long. Expected a string with maximum length 32000.",
        code="string_above_max_length",
        param="prompt",
    ),
    "invalid_prompt": Failure(422, "Input validation error: `inputs` must be a valid prompt", param="prompt"),
    "teapot": Failure(418, "I'm a teapot", code="teapot"),
}
"""Faults that answer with an error status."""

SPOILED = frozenset(
    {
        "empty_data",
        "filtered",
        "blank_image",
        "same_image",
        "truncated_image",
        "bad_base64",
        "html_page",
        "svg",
        "result_gone",
        "wrong_size",
    }
)
"""Faults that answer 200, with something else than the picture; they take as long as a picture does."""

SLOW = frozenset({"slow_body"})
"""Faults that leave the picture whole, if the client has the patience."""

BROKEN = frozenset({"reset", "hang"})
"""Faults that break the connection, or leave the client waiting until it goes away."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to fail, and how.

    name: in `FAILURES`, `SPOILED`, `SLOW` or `BROKEN`, or "ok". status, code, message: in place of the usual ones.
    retry_after: seconds, or text that goes into the header as it is; "" leaves the header out. seconds: estimated time
    of a loading model, or over which a slow body drips. latency: seconds before it fails. headers: further ones.
    after_bytes: bytes of a whole answer that "reset" and "hang" send before they do. times: how often the result of
    "result_gone" is not there. flavour: how "filtered" says so (azure, nsfw, finish_reason).
    """

    name: str
    status: int | None = None
    code: str | None = None
    message: str | None = None
    param: str | None = None
    retry_after: float | str | None = None
    seconds: float = 0.2
    latency: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    after_bytes: int = 0
    times: int = 1
    flavour: Literal["azure", "nsfw", "finish_reason"] = "azure"

    def __post_init__(self) -> None:
        known = {*FAILURES, *SPOILED, *SLOW, *BROKEN}
        if self.name not in {*known, "ok"}:
            raise ValueError(f"no fault is named {self.name!r}: {', '.join(sorted(known))}")


def as_fault(fault: Fault | str | Mapping[str, Any]) -> Fault:
    """A fault from itself, its name, or a mapping of its fields."""
    if isinstance(fault, Fault):
        return fault
    return Fault(fault) if isinstance(fault, str) else Fault(**fault)


def failure_answer(fault: Fault, wire: Wire, *, model: str, key: str) -> Answer:
    """The error of a fault in `FAILURES`, as this wire says it."""
    failure = FAILURES[fault.name]
    param = fault.param or failure.param
    words = failure.said_by_hub or failure.message if wire == "huggingface" else failure.message
    message = fault.message or words.format(model=model, key=key, param=param)
    body: dict[str, Any]
    if wire == "openai":
        body = {"error": {"message": message, "type": failure.type, "param": param, "code": fault.code or failure.code}}
    else:
        body = {"error": message}
        if fault.name == "loading":
            body["estimated_time"] = fault.seconds
    return json_answer(body, fault.status or failure.status, {**_retry_after(fault, failure), **fault.headers})


def _retry_after(fault: Fault, failure: Failure) -> dict[str, str]:
    wait = failure.retry_after if fault.retry_after is None else fault.retry_after
    return {} if wait in (None, "") else {"Retry-After": str(wait)}
