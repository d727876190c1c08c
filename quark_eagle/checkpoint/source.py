"""resolve(): what the user calls a draft or a target, as a directory on this machine.

A local directory is taken as it is. Anything that looks like ``owner/name`` and is not on the disk is fetched from
Hugging Face, weights and small text files only: no pickles, which can run code when read, and no Python unless it is
asked for. What the cache holds is enough where there is no network, and a cache that may not be written to is read.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from quark_eagle.errors import CheckpointError, UsageError

# Safetensors and their index, configs, tokenizers (sentencepiece, tiktoken), model card and licence.
PATTERNS = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.md", "*.tiktoken", "LICENSE*")
PYTHON = "*.py"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


def resolve(model: str | Path, *, python_too: bool = False) -> Path:
    """The directory of a draft or a target.

    Args:
        model: a local directory, or a Hugging Face id ``owner/name`` with an optional ``@revision``. A directory
            that exists wins over an id of the same spelling.
        python_too: fetch the model's own Python code as well; it is not run here.

    Raises:
        UsageError: it is neither on the disk nor an id.
        CheckpointError: the id is unknown, may not be read, or is neither in the cache nor to be fetched.
    """
    path = Path(model).expanduser()
    if path.exists():
        return path
    name = str(model)
    if not is_hub_id(name):
        raise UsageError(
            f"{name}: not found, but a draft is a local directory or a Hugging Face id (owner/name). Check the path."
        )
    return _from_hub(name, [*PATTERNS, PYTHON] if python_too else list(PATTERNS))


def on_disk(model: str) -> Path | None:
    """The directory of a model that is here already, or in Hugging Face's cache; nothing is fetched.

    Raises:
        UsageError: it is neither on the disk nor an id.
    """
    if not is_hub_id(model):
        return resolve(model)
    with suppress(OSError):
        return _snapshot(model, list(PATTERNS), cached=True)
    return None


def is_hub_id(name: str) -> bool:
    """Whether a name that a user gave is a Hugging Face id and nothing on the disk.

    >>> is_hub_id("owner/name@v1.0"), is_hub_id("./owner/name"), is_hub_id("/tmp")
    (True, False, False)
    """
    return bool(_HUB_ID.fullmatch(name)) and not Path(name).exists()


def at_revision(model: str, revision: str | None, option: str = "--revision") -> str:
    """A model's name with the revision that an option gave, as `resolve` takes it.

    Raises:
        UsageError: it is a directory, or names another revision already.

    >>> at_revision("owner/name", "v1.0"), at_revision("owner/name", None)
    ('owner/name@v1.0', 'owner/name')
    """
    if revision is None:
        return model
    if Path(model).expanduser().exists():
        raise UsageError(f"{option} {revision}: {model} is a directory, which has no revisions. Leave {option} out.")
    name, _, named = model.partition("@")
    if named and named != revision:
        raise UsageError(f"{option} {revision}: {model} names revision {named} already. Give one of them.")
    return f"{name}@{revision}"


def _from_hub(name: str, patterns: list[str]) -> Path:
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"{name}: no such directory here, and as a Hugging Face id"
    try:
        return _snapshot(name, patterns, cached=False)
    except GatedRepoError as error:
        raise CheckpointError(
            f"{where} it is gated. Accept its terms on huggingface.co and log in with `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        revision = name.partition("@")[2]
        raise CheckpointError(
            f"{where} it has no revision {revision!r}. Check --revision, or the part after the @."
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{where} it is unknown or private. Check the spelling, or log in with `hf auth login`."
        ) from error
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{where} it is not in the cache and cannot be fetched: Hugging Face is offline or out of reach. "
            "Check the network (and HF_HUB_OFFLINE), or download the draft elsewhere and pass its directory."
        ) from error
    except (HfHubHTTPError, OSError) as error:
        # A cache that may not be written to, or no network: what it holds is as good. (Asked for a commit while
        # offline, the hub's client misses its list of files, and does not look for the files.)
        with suppress(OSError):
            return _snapshot(name, patterns, cached=True)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{where} it cannot be fetched ({reason}). Try again, or pass a directory.") from error


def _snapshot(name: str, patterns: list[str], *, cached: bool) -> Path:
    """The snapshot of ``owner/name@revision``: fetched, or as the cache holds it, which is not written to."""
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    return Path(
        snapshot_download(repository, revision=revision or None, allow_patterns=patterns, local_files_only=cached)
    )
