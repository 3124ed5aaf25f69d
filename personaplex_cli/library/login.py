"""The token for Hugging Face: checked, and stored where huggingface_hub and `hf auth login` keep it."""

import logging

import huggingface_hub
from huggingface_hub import HfApi

from personaplex_cli.errors import PersonaplexError, UsageError
from personaplex_cli.library.hub_errors import TOKENS, translated_errors


def login(token: str, model: str) -> tuple[str, PersonaplexError | None]:
    """Check the token with the hub and store it -> whose it is, and what keeps it from the model, such as its licence.

    Raises UsageError for what cannot be a token, ModelError for one that the hub does not know, NetworkError; then
    nothing is stored. The token is in no message.
    """
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError("That is not a token.", f"Copy one from {TOKENS}.")
    if token.startswith("api_org"):
        raise UsageError("That is the token of an organisation.", f"Use one of your own, from {TOKENS}.")
    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with translated_errors(model, None):
            name = str(HfApi().whoami(token)["name"])
            huggingface_hub.login(token)
    finally:
        log.setLevel(level)
    try:
        with translated_errors(model, None):
            HfApi().auth_check(model, token=token)
    except PersonaplexError as error:
        return name, error
    return name, None
