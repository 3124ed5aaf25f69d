"""What the hub's answers and its client's errors mean, and what to do. The answers (observed in 2026):

    401 GatedRepo        a gated model, no token             401, a token was sent    a token it does not know
    403 GatedRepo        licence not accepted, or pending    403 "... fine-grained"   a token without gated models
    401 or 404           no such repo, or a private one      404                      no such revision, no such file

Often it is not the hub that answers: a proxy, a network's log-in page, one that inspects TLS, another web server.
"""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import requests
from huggingface_hub import constants, errors
from requests.utils import get_environ_proxies, select_proxy

from personaplex_cli.errors import ModelError, NetworkError, PersonaplexError

SITE = "https://huggingface.co"
TOKENS = f"{SITE}/settings/tokens"
UNKNOWN_TOKEN = (
    "Hugging Face does not know your token: it is mistyped, expired or revoked.",
    f"Make a new one at {TOKENS}; run `personaplex login` or `hf auth login` without HF_TOKEN, or set HF_TOKEN to it.",
)
OTHER_FOLDER = "set HF_HOME to a folder on another disk, such as HF_HOME=/data/huggingface"
AGAIN = "run this again: it continues where it stopped"
# What the client's code runs into when an answer is not what a hub says.
NONSENSE = (KeyError, IndexError, TypeError, AttributeError, ValueError, RecursionError)


@contextmanager
def translated_errors(model: str, revision: str | None) -> Iterator[None]:
    """Turn what huggingface_hub, requests and the disk raise into our errors: ModelError or NetworkError."""
    try:
        yield
    except (UnicodeEncodeError, requests.exceptions.InvalidHeader):
        # They hold the header that could not be sent, and with it the token: end the chain here.
        raise ModelError(*UNKNOWN_TOKEN) from None
    except OSError as error:  # which those of the other two are as well
        # The hub's client wraps whatever stopped it, and the different causes are inside.
        inner = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else None
        raise _translated(inner or error, model, revision) from error
    except errors.HFValidationError:
        raise
    except NONSENSE as error:
        raise _no_hub() from error


def disk_error(error: BaseException, folder: Path, remedy: str) -> ModelError:
    """What the operating system's refusal to use the folder means; `remedy` completes "make room, or ..."."""
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return ModelError(f"The disk of {folder} is full.", f"Make room, or {remedy}; then run this again.")
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        place = getattr(error, "filename", None) or folder
        return ModelError(f"There is no permission to use {place}.", f"Change its owner or mode, or {remedy}.")
    return ModelError(f"{folder} cannot be used ({error}).", f"Repair it, or {remedy}.")


def _translated(error: BaseException, model: str, revision: str | None) -> PersonaplexError:
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return _refusal(error, error.response, model, revision)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return NetworkError(f"{model} is not here, and HF_HUB_OFFLINE forbids downloads.", "Unset HF_HUB_OFFLINE.")
    if isinstance(error, requests.JSONDecodeError) and error.doc.lstrip().startswith("<"):
        return _log_in_page()
    if isinstance(error, errors.FileMetadataError | requests.JSONDecodeError | requests.TooManyRedirects):
        return _no_hub()
    if isinstance(error, requests.RequestException):
        return _unreachable(error)
    if "CA certificate bundle" in str(error):  # requests' own sentence
        what = f"The certificates of REQUESTS_CA_BUNDLE cannot be used: {error}."
        return NetworkError(what, "Set it to a file of certificates, or unset it.")
    if isinstance(error, OSError) and error.errno is None:  # the client's own check of a file's size
        detail, *_ = str(error).split("\n")
        return ModelError(f"A file is incomplete: {detail}", "Run this again.")
    return disk_error(error, Path(constants.HF_HUB_CACHE), OTHER_FOLDER)


def _refusal(
    error: requests.HTTPError, answer: requests.Response, model: str, revision: str | None
) -> PersonaplexError:
    if answer.status_code == 407:
        return _proxy_wants_a_name()
    if answer.status_code == 511:
        return _log_in_page()
    page, status, message = f"{SITE}/{model}", answer.status_code, getattr(error, "server_message", None) or ""
    gated = isinstance(error, errors.GatedRepoError)  # a kind of RepositoryNotFoundError: look for it first
    # We check that a token was sent, and never read it. For a missing repo a good token gets 404, none gets 401.
    if status == 401 and "authorization" in answer.request.headers:
        return ModelError(*UNKNOWN_TOKEN)
    if status == 401 and gated:
        what = f"{model} is gated, and there is no Hugging Face token."
        log_in = "`personaplex login` (or `hf auth login`), or set HF_TOKEN"
        hint = f"Accept its licence at {page}, make a token at {TOKENS}, then run {log_in}."
    elif status == 403 and "fine-grained" in message:
        what = "Your Hugging Face token is not allowed to read gated models."
        hint = f'Edit it at {TOKENS}: tick "Read access to contents of all public gated repos you can access".'
    elif gated and "awaiting" in message:
        what, hint = f"The authors of {model} have not answered your request for access yet.", f"See {page}."
    elif gated:
        what = f"Your Hugging Face account has no access to {model}: accept its licence first."
        hint = f"Open {page}, logged in as the owner of the token, accept it, and run this again."
    elif isinstance(error, errors.RevisionNotFoundError):
        what, hint = f"{model} has no revision {revision!r}.", f"See {page}/commits/main, or leave it out."
    elif isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        what = f"There is no model {model} on Hugging Face, or it is private."
        hint = f"Check the name at {page}; for a private model run `personaplex login` or set HF_TOKEN."
    elif isinstance(error, errors.EntryNotFoundError):
        what, hint = f"A file of {model} is no longer on Hugging Face.", f"See {page}/tree/main."
    elif status in (403, 451):
        what, hint = f"Hugging Face refuses access to {model}: {message or status}", f"See {page}."
    else:
        who = "Hugging Face" if constants.ENDPOINT == SITE else _host()
        what = f"{who} answers with error {status} {answer.reason}."
        return NetworkError(what, "Try again later (https://status.huggingface.co): it continues where it stopped.")
    return ModelError(what, hint)


def _unreachable(error: requests.RequestException) -> NetworkError:
    host, said = _host(), str(error)
    if isinstance(error, requests.exceptions.ProxyError):
        if "407" in said:
            return _proxy_wants_a_name()
        what = f"The proxy {_proxy()} does not lead to {host}."
        return NetworkError(what, f"Correct HTTPS_PROXY, or unset it, and {AGAIN}.")
    if found := re.search(r"certificate verify failed: ([^(]+?) *\(", said):
        what = f"The certificate that comes from {host} is not trusted: {found[1]}."
        hint = (
            "If this network inspects TLS, set REQUESTS_CA_BUNDLE to the file of its certificates. Is the clock right?"
        )
        return NetworkError(what, hint)
    if isinstance(error, requests.exceptions.SSLError):
        return NetworkError(
            f"What answers as {host} does not speak TLS.", f"Check HF_ENDPOINT and HTTPS_PROXY, and {AGAIN}."
        )
    if isinstance(error, ValueError):  # an address that is none, or a kind of proxy that requests does not know
        return NetworkError(f"Cannot reach {host}: {said}", "Correct HF_ENDPOINT or HTTPS_PROXY.")
    hint = f"Check the network (behind a proxy: HTTPS_PROXY) and {AGAIN}."
    return NetworkError(f"Cannot reach {host} ({type(error).__name__}).", hint)


def _host() -> str:
    return urlsplit(constants.ENDPOINT).hostname or "the hub"


def _proxy() -> str:
    """The proxy on the way to the hub, without a name or a password that its setting may have."""
    proxy = urlsplit(select_proxy(constants.ENDPOINT, get_environ_proxies(constants.ENDPOINT)) or "")
    return f"{proxy.hostname}:{proxy.port}" if proxy.hostname and proxy.port else proxy.hostname or "of this network"


def _proxy_wants_a_name() -> NetworkError:
    what = f"The proxy {_proxy()} wants a name and a password (407)."
    return NetworkError(what, f"Set HTTPS_PROXY=http://NAME:PASSWORD@HOST:PORT, and {AGAIN}.")


def _log_in_page() -> NetworkError:
    what = f"A web page answers in place of {_host()}: probably the log-in page of this network."
    return NetworkError(what, f"Open any page in a browser and log in; then {AGAIN}.")


def _no_hub() -> NetworkError:
    what = f"What answers as {_host()} is not a Hugging Face hub."
    return NetworkError(what, "Check HF_ENDPOINT; unset it for huggingface.co.")
