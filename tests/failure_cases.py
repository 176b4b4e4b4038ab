"""The table of failures: what services answer, in their own words → what kind that is → what it gets.

One table for every backend. `GETS` says what each kind gets, as FAILURES.md has it, written down a second time so that
a change of the product's own table is seen. `ANSWERED` are answers with an error, `SPOILED` those that say success,
`LOST` results that are not where they should be, `BROKEN` connections; `RAISED` exceptions of the clients.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx2
import huggingface_hub.errors
import openai
from PIL import Image as PILImage

from imagetask.errors import ErrorKind
from imagetask.images import encode_picture
from tests.model_server.http11 import Ending

Wire = Literal["openai", "hub", "fal-ai", "replicate", "together", "nscale", "wavespeed", "zai-org"]
WIRES: tuple[Wire, ...] = ("openai", "hub", "fal-ai", "replicate", "together", "nscale", "wavespeed", "zai-org")
"""How a service is spoken to: OpenAI's images API, Hugging Face's own (hf-inference, Inference Endpoints), and the
providers behind huggingface_hub."""
IN_JSON: tuple[Wire, ...] = ("openai", "together", "nscale")
BY_LINK: tuple[Wire, ...] = ("fal-ai", "replicate", "wavespeed", "zai-org")
"""Where a picture is: as base64 in the answer, or behind a link in it."""


@dataclass(frozen=True, slots=True)
class Gets:
    """What a kind gets. calls: for one image, where the failure lasts. asked_again: by the next run."""

    what: Literal["stop", "wait", "fail row"]
    calls: int = 1
    asked_again: bool = True
    maybe_billed: bool = False


GETS: Mapping[ErrorKind, Gets] = {
    "auth": Gets("stop"),
    "billing": Gets("stop"),
    "account_blocked": Gets("stop"),
    "rate_limited": Gets("wait"),
    "loading": Gets("wait"),
    "server": Gets("fail row", calls=5),
    "timeout": Gets("fail row", calls=2, maybe_billed=True),
    "refused": Gets("fail row", asked_again=False),
    "blank_image": Gets("fail row", calls=2, asked_again=False),
    "corrupt_image": Gets("fail row", calls=3),
    "placeholder_image": Gets("fail row"),
    "download": Gets("fail row", calls=2),
    "config": Gets("stop"),
    "invalid_input": Gets("fail row", asked_again=False),
    "task": Gets("fail row"),
    "storage": Gets("stop"),
    "unknown": Gets("fail row", calls=2),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One failure as a service answers it.

    status, body, headers, content_type: of the answer. told: seconds that it asks to wait. fatal: it stops the run
    whatever its kind gets. wires: who answers so. on: the kind on a wire where it is another one. stage: of a call:
    its own answer, what a provider says when it is asked for the state of its task, or the result behind the link.
    picture: bytes in place of the picture, in an answer that is otherwise good. ending: what becomes of the connection.
    """

    name: str
    kind: ErrorKind
    status: int = 200
    body: str | bytes = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    told: float | None = None
    fatal: bool = False
    wires: tuple[Wire, ...] = WIRES
    on: Mapping[Wire, ErrorKind] = field(default_factory=dict)
    stage: Literal["call", "poll", "result"] = "call"
    picture: bytes | None = None
    ending: Ending = "keep"
    cut: int | None = None

    def kind_on(self, wire: Wire) -> ErrorKind:
        return self.on.get(wire, self.kind)

    def what_on(self, wire: Wire) -> str:
        """What it gets there: told to wait for more than 15 minutes, a run stops."""
        long = self.told is not None and self.told > 900 and self.kind_on(wire) == "rate_limited"
        return "stop" if self.fatal or long else GETS[self.kind_on(wire)].what

    @property
    def data(self) -> bytes:
        return self.body.encode() if isinstance(self.body, str) else self.body

    def __str__(self) -> str:
        return self.name


def openai_says(message: str, code: str | int | None = None, kind: str | None = None, param: str | None = None) -> str:
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})


def azure_says(message: str, code: str, inner: str | None = None) -> str:
    return json.dumps({"error": {"code": code, "message": message, "inner_error": inner and {"code": inner}}})


def hub_says(error: Any, **more: Any) -> str:
    return json.dumps({"error": error, **more})


def fal_says(message: str, kind: str, *place: str) -> str:
    return json.dumps({"detail": [{"loc": ["body", *place], "msg": message, "type": kind, "input": "a cat"}]})


def replicate_says(title: str, detail: str, status: int) -> str:
    return json.dumps({"title": title, "detail": detail, "status": status, "type": "about:blank"})


def page(title: str) -> str:
    return f"<html>\r\n<head><title>{title}</title></head>\r\n<body><h1>{title}</h1></body></html>"


_SAFETY = "Your request was rejected as a result of our safety system. Your request may contain content that is not "
_QUOTA = "You exceeded your current quota, please check your plan and billing details."
_BLOCKED = (
    "Your resource has been temporarily blocked because we detected behavior that may violate our content policy."
)
_UNVERIFIED = (
    "Your organization must be verified to use the model `gpt-image-2`. Please go to: settings and click on Verify "
    "Organization. If you just verified, it can take up to 15 minutes for access to propagate."
)
_LIMIT = (
    "Rate limit reached for gpt-image-2 in organization org-4711 on images per min: Limit 50, Used 50, Requested 1."
)
_AZURE_LIMIT = (
    "Requests to the ImageGenerations_Create Operation have exceeded call rate limit of your current pricing tier. "
    "Please retry after 0.3 seconds. Please contact Azure support service."
)
_CREDITS = (
    "You have exceeded your monthly included credits for Inference Providers. Subscribe to PRO to get 20x more monthly "
    "included credits."
)
_NO_CREDIT = "You have insufficient credit to run this model. Go to your billing page to purchase credit."
_CAPACITY = "The system is at capacity, the engine is overloaded"
_HTML: Mapping[str, Any] = {"content_type": "text/html"}
_TEXT: Mapping[str, Any] = {"content_type": "text/plain"}

AUTH = (
    Case("openai: wrong key", "auth", 401, openai_says("Incorrect API key provided.", "invalid_api_key")),
    Case("openai: organization not verified", "auth", 403, openai_says(_UNVERIFIED, kind="invalid_request_error")),
    Case("openai: no member", "auth", 401, openai_says("You must be a member of an organization to use the API")),
    Case("openai: region", "auth", 403, openai_says("Country, region, or territory not supported", "unsupported")),
    Case(
        "azure: wrong key",
        "auth",
        401,
        azure_says("Access denied due to invalid subscription key or wrong API endpoint.", "401"),
    ),
    Case("azure: firewall", "auth", 403, azure_says("Access denied due to Virtual Network/Firewall rules.", "403")),
    Case("hf: wrong token", "auth", 401, hub_says("Invalid credentials in Authorization header")),
    Case(
        "hf: token without the right",
        "auth",
        403,
        hub_says("This authentication method does not have sufficient permissions to call Inference Providers"),
    ),
    Case(
        "fal: no key", "auth", 401, '{"detail": "Cannot access application fal-ai/flux. Authentication is required."}'
    ),
    Case(
        "replicate: no token",
        "auth",
        401,
        replicate_says("Unauthenticated", "You did not pass a valid authentication token", 401),
    ),
    Case("together: wrong key", "auth", 401, openai_says("Invalid API key provided.", "invalid_api_key")),
    Case("gemini-like: wrong key", "auth", 400, openai_says("API key not valid. Please pass a valid API key.", 400)),
    Case("vllm: no key", "auth", 401, '{"error": "Unauthorized"}'),
    Case("proxy: forbidden", "auth", 403, page("403 Forbidden"), **_HTML),
)

BILLING = (
    Case("openai: quota", "billing", 429, openai_says(_QUOTA, "insufficient_quota", "insufficient_quota")),
    Case(
        "openai: hard limit",
        "billing",
        400,
        openai_says("Billing hard limit has been reached", "billing_hard_limit_reached"),
    ),
    Case("openai: not active", "billing", 429, openai_says("Your account is not active", "billing_not_active")),
    Case("azure: quota", "billing", 429, azure_says("Quota is used up for this subscription.", "InsufficientQuota")),
    Case("hf: credits", "billing", 402, hub_says(_CREDITS)),
    Case(
        "fal: balance", "billing", 403, '{"detail": "User is locked. Reason: Exhausted balance. Top up your balance."}'
    ),
    Case("replicate: credit", "billing", 402, replicate_says("Insufficient credit", _NO_CREDIT, 402)),
    Case("together: credit", "billing", 402, openai_says("Credit limit exceeded", None, "credit_limit")),
    Case("zai: balance", "billing", 429, openai_says("Insufficient balance or no resource package.", "1113")),
    Case("gateway: 402 without a word", "billing", 402),
)

BLOCKED = (
    Case("azure: resource blocked", "account_blocked", 403, azure_says(_BLOCKED, "Forbidden")),
    Case("azure: resource blocked, 422", "account_blocked", 422, azure_says(_BLOCKED, "Forbidden")),
    Case(
        "openai: deactivated",
        "account_blocked",
        401,
        openai_says("The OpenAI account associated with this API key has been deactivated.", "account_deactivated"),
    ),
    Case("hf: suspended", "account_blocked", 403, hub_says("Your account has been suspended over our content policy")),
)

LIMITED = (
    Case("openai: text", "rate_limited", 429, openai_says(f"{_LIMIT} Please try again in 232ms."), told=0.232),
    Case(
        "openai: header",
        "rate_limited",
        429,
        openai_says(_LIMIT, "rate_limit_exceeded", "requests"),
        {"Retry-After": "0.4"},
        told=0.4,
    ),
    Case("openai: zero", "rate_limited", 429, openai_says(_LIMIT), {"Retry-After": "0.0"}, told=0.0),
    Case("openai: ms", "rate_limited", 429, openai_says(_LIMIT), {"retry-after-ms": "300"}, told=0.3),
    Case("azure: text", "rate_limited", 429, azure_says(_AZURE_LIMIT, "429"), told=0.3),
    Case("hf: header", "rate_limited", 429, hub_says("Rate limit reached."), {"RateLimit": '"api";r=0;t=1'}, told=1.0),
    Case(
        "replicate: throttled",
        "rate_limited",
        429,
        replicate_says("", "Request was throttled. Your rate limit resets in ~1s.", 429),
        told=1.0,
    ),
    Case("replicate: expected", "rate_limited", 429, '{"detail": "Expected available in 0.5 seconds."}', told=0.5),
    Case(
        "together: limit of a model",
        "rate_limited",
        429,
        openai_says("You have reached the rate limit", None, "rate_limit"),
    ),
    Case("zai: usage", "rate_limited", 429, openai_says("Rate limit reached for requests", "1302")),
    Case("cloudflare: 1015", "rate_limited", 429, "error code: 1015", **_TEXT),
    Case("gateway: 429 without a word", "rate_limited", 429),
    Case("compatible: 403 that means 429", "rate_limited", 403, hub_says("Too Many Requests")),
    Case("openai: a day", "rate_limited", 429, openai_says(f"{_LIMIT} Please try again in 17h20m0s."), told=62_400.0),
    Case("hf: an hour", "rate_limited", 429, hub_says("Rate limit reached."), {"Retry-After": "3600"}, told=3600.0),
)

_BARE_503: Mapping[Wire, ErrorKind] = {"hub": "loading"}
LOADING = (
    Case("hf: loading", "loading", 503, hub_says("Model m is currently loading", estimated_time=0.4), told=0.4),
    Case("hf: loading, no time", "loading", 503, hub_says("Service Unavailable", estimated_time=0.3), told=0.3),
    Case(
        "endpoint: from zero",
        "loading",
        503,
        hub_says("503 Service Unavailable: the endpoint is scaled to zero and is starting"),
        {"Retry-After": "0.3"},
        told=0.3,
    ),
    Case(
        "endpoint: from zero, not a word",
        "server",
        503,
        hub_says("503 Service Unavailable"),
        {"Retry-After": "0.3"},
        told=0.3,
        on=_BARE_503,
    ),
    Case("endpoint: paused", "loading", 400, hub_says("Bad Request: Invalid state: endpoint is paused"), fatal=True),
    Case(
        "fal: cold start", "loading", 503, '{"detail": "The runner is starting up"}', {"Retry-After": "0.2"}, told=0.2
    ),
    Case("compatible: warming up", "loading", 503, openai_says("Model is warming up, retry in 0.3 seconds"), told=0.3),
)

SERVER = (
    Case("openai: 500", "server", 500, openai_says("The server had an error while processing your request.")),
    Case("openai: overloaded", "server", 503, openai_says("That model is currently overloaded with other requests.")),
    Case("azure: 500", "server", 500, azure_says("The server had an error processing your request.", "500")),
    Case("hf: out of memory", "server", 500, hub_says("CUDA out of memory. Tried to allocate 2.25 GiB")),
    Case("hf: too busy", "server", 504, hub_says("Model too busy, unable to get response in less than 60 second(s)")),
    Case("fal: 500", "server", 500, '{"detail": "Internal Server Error"}'),
    Case("fal: generation timed out", "server", 504, fal_says("Generation timeout", "generation_timeout")),
    Case("replicate: 502", "server", 502, replicate_says("Bad gateway", "Error while processing your request", 502)),
    Case("together: not ready", "server", 503, openai_says(_CAPACITY, None, "server_error")),
    Case("nscale: 500", "server", 500, openai_says("Internal server error", "500", "server_error")),
    Case("zai: 500", "server", 500, openai_says("Network error, please contact customer service", "1234")),
    Case("vllm: 500", "server", 500, openai_says("CUDA out of memory", 500, "InternalServerError")),
    Case("localai: no backend", "server", 500, openai_says("could not load model: rpc error: code = Unavailable", 500)),
    Case("nginx: 502", "server", 502, page("502 Bad Gateway"), **_HTML),
    Case("nginx: 504", "server", 504, page("504 Gateway Time-out"), **_HTML),
    Case("cloudflare: 520", "server", 520, "error code: 520", **_TEXT),
    Case("cloudflare: 524", "server", 524, page("api.example.com | 524: A timeout occurred"), **_HTML),
    Case("gateway: 500 without a word", "server", 500),
    Case("gateway: 408", "server", 408, hub_says("Request Timeout")),
    Case("gateway: 409", "server", 409, openai_says("The request conflicts with another one")),
)

REFUSED = (
    Case(
        "openai: moderation", "refused", 400, openai_says(_SAFETY, "moderation_blocked", "image_generation_user_error")
    ),
    Case("openai: policy", "refused", 400, openai_says(_SAFETY, "content_policy_violation")),
    Case(
        "azure: filter",
        "refused",
        400,
        azure_says(_SAFETY, "content_policy_violation", "ResponsibleAIPolicyViolation"),
    ),
    Case("azure: contentFilter", "refused", 400, azure_says("Your task failed.", "contentFilter")),
    Case("hf: 451", "refused", 451, hub_says("Unavailable For Legal Reasons")),
    Case("fal: checker", "refused", 422, fal_says("It was flagged by a content checker.", "content_policy_violation")),
    Case("together: nsfw", "refused", 422, openai_says("NSFW content detected in prompt", "nsfw_content")),
    Case(
        "zai: sensitive",
        "refused",
        400,
        openai_says("System has detected potentially unsafe or sensitive content in input or generation.", "1301"),
    ),
)

CONFIG = (
    Case(
        "openai: parameter",
        "config",
        400,
        openai_says("Unknown parameter: 'seed'.", "unknown_parameter", "invalid_request_error", "seed"),
    ),
    Case("openai: value", "config", 400, openai_says("Invalid value: '7x7'.", "invalid_value", param="size")),
    Case("openai: model", "config", 404, openai_says("The model 'm' does not exist", "model_not_found")),
    Case("openai: project", "config", 403, openai_says("Project `p` does not have access to it", "model_not_found")),
    Case(
        "azure: deployment",
        "config",
        404,
        azure_says("The API deployment for this resource does not exist. Please wait a moment.", "DeploymentNotFound"),
    ),
    Case("hf: model", "config", 404, hub_says("Model m does not exist")),
    Case("hf: repository", "config", 401, "", {"X-Error-Code": "RepoNotFound"}),
    Case("hf: gone", "config", 410, hub_says("The requested model is deprecated and no longer supported")),
    Case("hf: unsupported", "config", 400, hub_says("Model not supported by provider hf-inference")),
    Case("endpoint: argument", "config", 400, hub_says("Bad Request: unexpected keyword argument 'style'")),
    Case("fal: application", "config", 404, '{"detail": "Application \'flux\' not found"}'),
    Case("replicate: model", "config", 404, replicate_says("", "The requested resource could not be found.", 404)),
    Case("together: model", "config", 404, openai_says("Unable to access model m.", "model_not_available")),
    Case("vllm: model", "config", 404, openai_says("The model `m` does not exist.", 404, "NotFoundError", "model")),
    Case(
        "vllm: extra field",
        "config",
        422,
        fal_says("Extra inputs are not permitted", "extra_forbidden", "guidance_scale"),
    ),
    Case("compatible: method", "config", 405, '{"detail": "Method Not Allowed"}'),
    Case("compatible: not there", "config", 501, openai_says("images are not implemented")),
    Case("gateway: redirect to nowhere", "config", 307),
)

INVALID = (
    Case(
        "openai: long", "invalid_input", 400, openai_says("string too long", "string_above_max_length", param="prompt")
    ),
    Case("azure: empty", "invalid_input", 400, azure_says("The prompt must not be empty", "invalidPrompt")),
    Case("hf: parameters", "invalid_input", 422, hub_says(["Error in `parameters.width`: ensure this value is >= 64"])),
    Case("fal: limit", "invalid_input", 422, fal_says("ensure this value is at most 12", "less_than_equal", "steps")),
    Case("replicate: size", "invalid_input", 422, replicate_says("Input validation failed", "- input.width: odd", 422)),
    Case("nginx: 413", "invalid_input", 413, page("413 Request Entity Too Large"), **_HTML),
)

UNKNOWN = (
    Case("anyone: 418", "unknown", 418, openai_says("I'm a teapot")),
    Case("anyone: 444", "unknown", 444),
)

ANSWERED = (*AUTH, *BILLING, *BLOCKED, *LIMITED, *LOADING, *SERVER, *REFUSED, *CONFIG, *INVALID, *UNKNOWN)
"""Answers with an error, of any service: each means the same whoever sends it."""

_GOOD = encode_picture(PILImage.effect_noise((64, 64), 60), "PNG")
_BLACK = encode_picture(PILImage.new("RGB", (64, 64)), "PNG")
_SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><circle cx="32" cy="32" r="20"/></svg>'
_REPLICATE_NSFW = "NSFW content detected. Try running it again, or try a different prompt."


def task_failed(error: str) -> str:
    """A prediction of replicate that failed, with status 201."""
    return json.dumps({"id": "x1", "status": "failed", "output": None, "error": error, "logs": ""})


SPOILED = (
    Case("anyone: a black picture", "blank_image", picture=_BLACK),
    Case("anyone: a picture cut short", "corrupt_image", picture=_GOOD[: len(_GOOD) * 2 // 3]),
    Case("anyone: bytes that are no picture", "corrupt_image", picture=b"\x00no image\xff" * 20),
    Case("anyone: SVG", "corrupt_image", picture=_SVG),
    Case("anyone: an HTML page for a picture", "corrupt_image", picture=page("404 Not Found").encode()),
    Case(
        "cloudflare: a page for an answer",
        "corrupt_image",
        body=page("Just a moment..."),
        wires=("openai", "hub"),
        **_HTML,
    ),
    Case("hub: an empty body", "corrupt_image", content_type="image/png", wires=("hub",)),
    Case("openai: bad base64", "corrupt_image", body='{"data": [{"b64_json": "%% no base64 %%"}]}', wires=("openai",)),
    Case("openai: half of the JSON", "corrupt_image", body='{"data": [{"b64_js', wires=("openai",)),
    Case("openai: no data", "refused", body='{"created": 1, "data": []}', wires=IN_JSON),
    Case("openai: data null", "refused", body='{"created": 1, "data": null}', wires=("openai",)),
    Case("openai: neither form", "refused", body='{"data": [{"revised_prompt": "x"}]}', wires=("openai",)),
    Case(
        "azure: filtered output",
        "refused",
        body='{"data": [{"content_filter_results": {"violence": {"filtered": true, "severity": "high"}}}]}',
        wires=("openai",),
    ),
    Case("openai: error as 200", "refused", body=openai_says(_SAFETY, "moderation_blocked"), wires=("openai",)),
    Case("openai: quota as 200", "billing", body=openai_says(_QUOTA, "insufficient_quota"), wires=("openai",)),
    Case("hub: filtered", "refused", body='{"has_nsfw_concepts": [true], "images": []}', wires=("hub",)),
    Case("hub: an error as 200", "refused", body=hub_says("NSFW content detected"), wires=("hub",)),
    Case("fal: no images", "refused", body='{"images": [], "has_nsfw_concepts": []}', wires=("fal-ai",)),
    Case("replicate: no output", "refused", status=201, body='{"output": []}', wires=("replicate",)),
    Case("replicate: nsfw", "refused", status=201, body=task_failed(_REPLICATE_NSFW), wires=("replicate",)),
    Case("replicate: failed", "server", status=201, body=task_failed("CUDA out of memory"), wires=("replicate",)),
    Case(
        "replicate: not done in time",
        "timeout",
        status=201,
        body='{"status": "starting", "output": null, "error": null}',
        wires=("replicate",),
    ),
    Case(
        "wavespeed: failed",
        "server",
        body='{"data": {"status": "failed", "error": "out of memory"}}',
        stage="poll",
        wires=("wavespeed",),
    ),
    Case(
        "wavespeed: flagged",
        "refused",
        body='{"data": {"status": "failed", "error": "content flagged as potentially sensitive"}}',
        stage="poll",
        wires=("wavespeed",),
    ),
    Case(
        "wavespeed: no output",
        "refused",
        body='{"data": {"status": "completed", "outputs": []}}',
        stage="poll",
        wires=("wavespeed",),
    ),
    Case("zai: failed", "server", body='{"id": "1", "task_status": "FAIL"}', wires=("zai-org",)),
    Case("zai: no result", "refused", body='{"id": "1", "task_status": "SUCCESS"}', wires=("zai-org",)),
)
"""Answers that say success, without a picture that is one."""

LOST = (
    Case("result: gone", "download", 404, '{"error": "expired"}', stage="result", wires=("openai", *BY_LINK)),
    Case("result: signature", "download", 403, "AccessDenied", stage="result", wires=("openai", *BY_LINK), **_TEXT),
    Case("result: 503", "download", 503, "Slow Down", stage="result", wires=("openai", *BY_LINK), **_TEXT),
    Case("result: reset", "download", stage="result", wires=("openai", *BY_LINK), ending="reset", cut=0),
    Case("poll: 502", "download", 502, page("502 Bad Gateway"), stage="poll", wires=("wavespeed",), **_HTML),
    Case("poll: 429", "download", 429, "error code: 1015", stage="poll", wires=("wavespeed",), **_TEXT),
    Case("poll: reset", "download", stage="poll", wires=("wavespeed",), ending="reset", cut=0),
)
"""A picture was made, or is in the making, and cannot be had from where the answer says."""

BROKEN = (
    Case("connection: reset", "server", ending="reset", cut=0),
    Case("connection: reset in the body", "server", ending="reset", cut=20, body="{" + " " * 5000),
)
HANGING_CALLS = (
    Case("connection: no answer", "timeout", ending="hang", cut=0),
    Case("connection: a body that stops", "timeout", ending="hang", cut=20, body="{" + " " * 5000),
)
HANGING_RESULTS = (
    Case("result: no answer", "download", stage="result", wires=("openai", *BY_LINK), ending="hang", cut=0),
    Case(
        "result: a body that stops",
        "download",
        body=" " * 500,
        stage="result",
        wires=("openai", *BY_LINK),
        ending="hang",
        cut=20,
    ),
)
HANGING = (*HANGING_CALLS, *HANGING_RESULTS)
"""These take as long as the model's time limit says."""

CASES = (*ANSWERED, *SPOILED, *LOST, *BROKEN, *HANGING)

REQUEST = httpx2.Request("POST", "http://user:pw@127.0.0.1:9/v1/images/generations?sig=1")


def answer_of(status: int) -> httpx2.Response:
    return httpx2.Response(status, request=REQUEST)


RAISED: tuple[tuple[BaseException, ErrorKind], ...] = (
    (httpx2.ReadTimeout("", request=REQUEST), "timeout"),
    (TimeoutError(), "timeout"),
    (httpx2.ConnectTimeout("", request=REQUEST), "server"),
    (httpx2.PoolTimeout("", request=REQUEST), "server"),
    (httpx2.ConnectError("All connection attempts failed", request=REQUEST), "server"),
    (httpx2.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed", request=REQUEST), "config"),
    (httpx2.ReadError("", request=REQUEST), "server"),
    (httpx2.RemoteProtocolError("Server disconnected", request=REQUEST), "server"),
    (httpx2.UnsupportedProtocol("no scheme", request=REQUEST), "config"),
    (StopIteration(), "config"),
    (RuntimeError("coroutine raised StopIteration"), "config"),
    (RuntimeError("something else"), "unknown"),
    (ValueError("WaveSpeed AI task failed: out of memory"), "server"),
    (ValueError("WaveSpeed AI task failed: content flagged as potentially sensitive"), "refused"),
    (KeyError("images"), "unknown"),
    (huggingface_hub.errors.OfflineModeIsEnabled("offline"), "config"),
    (huggingface_hub.errors.HfHubHTTPError("401", response=answer_of(401)), "auth"),
    (huggingface_hub.errors.InferenceTimeoutError("timed out"), "timeout"),
    (openai.APITimeoutError(REQUEST), "timeout"),
    (openai.APIConnectionError(request=REQUEST), "server"),
    (openai.AuthenticationError("401", response=answer_of(401), body=None), "auth"),
    (openai.RateLimitError("429", response=answer_of(429), body=None), "rate_limited"),
)
"""Exceptions as the clients, and what they stand on, raise them."""
