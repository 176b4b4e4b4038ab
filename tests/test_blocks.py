"""The credentials blocks: what Prefect asks of a block, what a saved one gives, and that its secret stays in it."""

from __future__ import annotations

import math
import shlex
import socket
import traceback
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.error import HTTPError, URLError

import pytest
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import BlockDocumentCreate
from prefect.exceptions import ObjectNotFound
from prefect.testing.standard_test_suites.blocks import BlockStandardTestSuite
from pydantic import SecretStr, ValidationError

from imagetask.blocks import BLOCKS, InferenceEndpointsCredentials, OpenAIImageCredentials, load_block, wrong_field
from imagetask.errors import UsageError
from imagetask.models import BACKENDS
from imagetask.models.inference_endpoints import InferenceEndpointsImageGeneration
from imagetask.models.openai import OpenAIImageGeneration
from tests.model_server import ModelServer

KEY = "sk-in-a-block-2207"


class TestEachBlock(BlockStandardTestSuite):
    """Prefect's own suite over every block."""

    @pytest.fixture(params=BLOCKS.values(), ids=list(BLOCKS))
    def block(self, request: pytest.FixtureRequest) -> type[Block]:
        kind: type[Block] = request.param
        return kind

    @pytest.fixture(autouse=True)
    def short_waits(self) -> Iterator[None]:
        usual = socket.getdefaulttimeout()
        socket.setdefaulttimeout(5.0)
        yield
        socket.setdefaulttimeout(usual)

    def test_has_a_valid_image(self, block: type[Block]) -> None:
        """The suite fetches the logo; where there is no way to its site, this cannot be seen."""
        try:
            super().test_has_a_valid_image(block)
        except (URLError, TimeoutError) as error:
            if isinstance(error, HTTPError) and error.code in (404, 410):
                raise
            pytest.skip(f"the site of the logo was not reached: {error}")


def test_each_backend_that_takes_a_key_has_a_block() -> None:
    assert BLOCKS.keys() == BACKENDS.keys() - {"placeholder"}


@pytest.mark.parametrize("kind", BLOCKS.values(), ids=BLOCKS)
def test_the_secret_is_in_no_text_that_a_block_gives(kind: type[OpenAIImageCredentials]) -> None:
    block = kind(api_key=SecretStr(KEY), base_url="http://127.0.0.1:9/v1")
    assert block.api_key is not None
    assert block.api_key.get_secret_value() == KEY
    model = block.get_model("some/model")
    for thing in (block, model):
        texts = (repr(thing), str(thing), thing.model_dump_json(), str(thing.model_dump()), f"{thing}")
        assert not [text for text in texts if KEY in text]


@pytest.mark.parametrize("kind", BLOCKS.values(), ids=BLOCKS)
def test_a_key_under_a_wrong_name_is_refused_and_not_shown(kind: type[OpenAIImageCredentials]) -> None:
    with pytest.raises(ValidationError, match="token") as caught:
        kind(token=KEY)  # type: ignore[call-arg]
    assert KEY not in str(caught.value)


def test_a_model_has_all_that_the_block_of_its_account_says() -> None:
    hub = InferenceEndpointsCredentials(api_key=SecretStr(KEY), provider="fal-ai", bill_to="some-organization")
    model = hub.get_model("some/model")
    assert isinstance(model, InferenceEndpointsImageGeneration)
    assert (model.model_id, model.provider, model.bill_to) == ("some/model", "fal-ai", "some-organization")
    assert model.api_key is not None
    assert model.api_key.get_secret_value() == KEY

    by_url = InferenceEndpointsCredentials(base_url="http://127.0.0.1:9/flux").get_model()
    assert isinstance(by_url, InferenceEndpointsImageGeneration)
    assert (by_url.model_id, by_url.base_url, by_url.api_key) == (None, "http://127.0.0.1:9/flux", None)

    other = OpenAIImageCredentials(api_key=SecretStr(KEY), base_url="http://127.0.0.1:9/v1").get_model("gpt-image-2")
    assert isinstance(other, OpenAIImageGeneration)
    assert (other.model, other.base_url) == ("gpt-image-2", "http://127.0.0.1:9/v1")
    assert other.api_key is not None
    assert other.api_key.get_secret_value() == KEY


def test_what_is_asked_goes_before_what_the_block_says() -> None:
    block = OpenAIImageCredentials(base_url="http://127.0.0.1:9/v1")
    options = {"base_url": "http://127.0.0.1:10/v1", "quality": "low"}
    asked = block.get_model("m", **options)
    assert isinstance(asked, OpenAIImageGeneration)
    assert (asked.base_url, asked.quality) == ("http://127.0.0.1:10/v1", "low")
    not_asked = block.get_model("m", base_url=None)
    assert isinstance(not_asked, OpenAIImageGeneration)
    assert not_asked.base_url == "http://127.0.0.1:9/v1"


@pytest.mark.parametrize("kind", BLOCKS.values(), ids=BLOCKS)
@pytest.mark.parametrize("url", [f"http://user:{KEY}@127.0.0.1:9/v1", f"http://127.0.0.1:9/v1?key={KEY}"])
def test_a_key_written_into_the_url_of_a_block_is_refused_and_not_shown(
    kind: type[OpenAIImageCredentials], url: str
) -> None:
    with pytest.raises(ValidationError, match="base_url must not hold a") as caught:
        kind(base_url=url)
    assert KEY not in str(caught.value)


WRONG: dict[str, dict[str, Any]] = {
    "no call at once": {"max_concurrency": 0},
    "no call a minute": {"requests_per_minute": 0},
    "endless calls a minute": {"requests_per_minute": math.inf},
    "a price below nothing": {"prices": {"gpt-image-2": -0.01}},
    "a price that is no number": {"prices": {"gpt-image-2": math.nan}},
    "a price for a quality": {"prices": {"gpt-image-2 high": 0.1}},
    "a price for no size": {"prices": {"gpt-image-2 0x512": 0.1}},
    "a price for other tokens": {"prices": {"gpt-image-2 cached tokens": 0.1}},
    "a price for tokens of no model": {"prices": {"output tokens": 0.1}},
    "a price of nothing": {"prices": {"": 0.1}},
    "a price with a backend": {"prices": {"openai:gpt-image-2": 0.1}},
    "a model with a backend": {"model": "openai:gpt-image-2"},
    "a URL that is none": {"base_url": "localhost:8000"},
}


@pytest.mark.parametrize("fields", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("kind", BLOCKS.values(), ids=BLOCKS)
def test_what_cannot_work_is_refused_before_it_is_saved(
    kind: type[OpenAIImageCredentials], fields: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError) as caught:
        kind(**fields)
    assert wrong_field(caught.value)[0] == next(iter(fields))


def test_a_provider_that_makes_no_images_or_would_not_be_asked_is_refused() -> None:
    with pytest.raises(ValidationError, match="choose auto or one of"):
        InferenceEndpointsCredentials(provider="nobody")
    with pytest.raises(ValidationError, match="a provider goes without a base_url"):
        InferenceEndpointsCredentials(provider="fal-ai", base_url="http://127.0.0.1:9/flux")


@pytest.mark.parametrize("backend", BLOCKS)
def test_the_default_model_is_taken_where_none_is_asked(backend: str) -> None:
    prices: dict[str, float] = {"some/model 8x8": 0, "some/model input tokens": 5, "some/model output tokens": 40}
    block = BLOCKS[backend](model="some/model", max_concurrency=3, prices=prices)
    assert block.prices == prices
    assert block.get_model().model_name == "some/model"
    assert block.get_model("another/model").model_name == "another/model"


@pytest.mark.parametrize("kind", BLOCKS.values(), ids=BLOCKS)
def test_the_form_of_a_block_has_one_field_for_each_and_the_key_is_its_secret(
    kind: type[OpenAIImageCredentials],
) -> None:
    schema = kind.model_json_schema()
    assert not [name for name, field in schema["properties"].items() if "anyOf" in field]
    assert schema["properties"]["api_key"]["format"] == "password"
    assert schema["secret_fields"] == ["api_key"]
    assert "required" not in schema


def test_fields_that_a_form_left_blank_are_not_set() -> None:
    fields: dict[str, Any] = {"base_url": "", "model": " ", "provider": "", "bill_to": "", "prices": None}
    assert InferenceEndpointsCredentials(**fields) == InferenceEndpointsCredentials()


def test_a_backend_without_credentials_says_so() -> None:
    with pytest.raises(UsageError, match="'placeholder' takes no credentials; leave them out"):
        load_block("placeholder", "mine")


@pytest.mark.prefect_server
@pytest.mark.parametrize("name", ["nobody", "Odd Näme", "a/b", ""])
def test_a_block_that_is_not_there_is_told_with_how_to_make_it(prefect_server: None, name: str) -> None:
    with pytest.raises(UsageError, match="there is no block openai-image-credentials/") as caught:
        load_block("openai", name)
    assert f"imagetask blocks create openai {shlex.quote(name)}" in str(caught.value)


@pytest.mark.prefect_server
@pytest.mark.parametrize("data", [{"max_concurrency": 0}, {"base_url": f"http://h/?{KEY}"}, {"token": KEY}])
def test_a_block_that_the_ui_saved_wrong_is_told_with_the_field(prefect_server: None, data: dict[str, Any]) -> None:
    """The UI sends what was typed, and the server takes it as it is."""
    saved_by_a_form("typed-wrong", {"api_key": KEY, **data})
    with pytest.raises(UsageError, match="openai-image-credentials/typed-wrong cannot be used") as caught:
        load_block("openai", "typed-wrong")
    assert f": {next(iter(data))}: " in str(caught.value)
    assert "imagetask blocks create openai typed-wrong --overwrite" in str(caught.value)
    assert KEY not in "".join(traceback.format_exception(caught.value))


def saved_by_a_form(name: str, data: dict[str, Any]) -> None:
    OpenAIImageCredentials.register_type_and_schema()
    with get_client(sync_client=True) as client:
        kind = client.read_block_type_by_slug("openai-image-credentials")
        schema = client.get_most_recent_block_schema_for_block_type(kind.id)
        assert schema is not None
        with suppress(ObjectNotFound):
            client.delete_block_document(client.read_block_document_by_name(name, kind.slug).id)
        client.create_block_document(
            BlockDocumentCreate(name=name, data=data, block_type_id=kind.id, block_schema_id=schema.id)
        )


@pytest.mark.prefect_server
@pytest.mark.parametrize("backend", BLOCKS)
def test_the_example_on_a_blocks_page_makes_a_picture(
    backend: str, prefect_server: None, model_server: ModelServer
) -> None:
    """As it stands there, but for the name of the block."""
    url = model_server.openai_url if backend == "openai" else model_server.url
    BLOCKS[backend](api_key=SecretStr(KEY), base_url=url).save("example", overwrite=True)
    code = (BLOCKS[backend].get_code_example() or "").split("```")[1].removeprefix("python")
    names: dict[str, Any] = {}
    exec(code.replace("BLOCK_NAME", "example"), names)
    assert names["picture"].size == (64, 64)
    assert [call.prompt for call in model_server.calls] == ["a red bicycle"]


@pytest.mark.prefect_server
def test_a_saved_block_makes_calls_with_its_key_and_its_server(prefect_server: None, model_server: ModelServer) -> None:
    OpenAIImageCredentials(api_key=SecretStr(KEY), base_url=f"{model_server.url}/v1").save("shared-name")
    InferenceEndpointsCredentials(api_key=SecretStr(f"hf_{KEY}"), base_url=model_server.url).save("shared-name")
    for backend in BLOCKS:
        [[generation]] = load_block(backend, "shared-name").get_model("some/model").generate_outputs(["a red cat"])
        assert generation.status == "done", generation.error_message
    assert {call.wire: call.authorization for call in model_server.calls} == {
        "openai": f"Bearer {KEY}",
        "huggingface": f"Bearer hf_{KEY}",
    }
