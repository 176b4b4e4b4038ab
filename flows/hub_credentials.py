"""The Hub token that a saved block holds."""

from __future__ import annotations

from imagetask.errors import UsageError


def hub_token(name: str | None) -> str | None:
    """The token of the block `name`, of Hugging Face's; None, which stands for HF_TOKEN, where none is named.

    Raises `UsageError` for a block that is not there, or holds no token.
    """
    if name is None:
        return None
    from imagetask.blocks import load_block

    try:
        token = load_block("inference-endpoints", name).api_key
    except UsageError as error:
        raise UsageError(str(error).replace("--credentials", "--hub-credentials", 1)) from error
    if token is None:
        raise UsageError(f"--hub-credentials {name}: the block holds no token")
    return token.get_secret_value()
