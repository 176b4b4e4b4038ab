"""The credentials blocks: what Prefect asks of a block, what a saved one gives, and that its secret stays in it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from urllib.error import HTTPError, URLError

import pytest
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites.blocks import BlockStandardTestSuite
from pydantic import SecretStr, ValidationError

from imagetask.blocks import BLOCKS, InferenceEndpointsCredentials, OpenAIImageCredentials, load_block
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


def test_a_key_written_into_the_url_of_a_block_is_refused_and_not_shown() -> None:
    block = OpenAIImageCredentials(base_url=f"http://user:{KEY}@127.0.0.1:9/v1")
    with pytest.raises(UsageError, match="base_url must not hold a user name or password") as caught:
        block.get_model("m")
    assert KEY not in str(caught.value)


def test_a_backend_without_credentials_says_so() -> None:
    with pytest.raises(UsageError, match="'placeholder' takes no credentials; leave them out"):
        load_block("placeholder", "mine")


@pytest.mark.prefect_server
@pytest.mark.parametrize("name", ["nobody", "Odd Näme", "a/b", ""])
def test_a_block_that_is_not_there_is_told_with_how_to_make_it(prefect_server: None, name: str) -> None:
    with pytest.raises(UsageError, match="there is no block openai-image-credentials/") as caught:
        load_block("openai", name)
    assert f"OpenAIImageCredentials(api_key=…).save({name!r})" in str(caught.value)


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
