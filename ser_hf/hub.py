"""Datasets and models -> repositories on the Hugging Face Hub that strangers load without this package."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, errors
from huggingface_hub.hf_api import DatasetInfo, ModelInfo
from huggingface_hub.utils import validate_repo_id

from ser_hf import provenance
from ser_hf.errors import UserError

_FILES = {
    "dataset": ("README.md", "audit.json", "data/*.parquet", "pictures/*.png"),
    "model": ("README.md", "*.json", "*.safetensors", "*.txt", "plots/*.png"),
}
_REMADE = re.compile(r"data/[^/]+\.parquet|pictures/[^/]+\.png|[^/]+\.safetensors|plots/[^/]+\.png")
"""What each build or training writes anew: such a file on the Hub that the folder no longer has is deleted."""

_REMEDIES = {
    401: "run `hf auth login`, or set HF_TOKEN to a token that is valid",
    403: "take a token that may write there, or a name under your own account",
    404: "check the name, and that the token may see it",
    429: "wait until the Hub allows more requests and push again",
}


class HubError(UserError):
    """The Hub cannot be reached, refuses, or must not be given the data; the message names the repository."""


def check_push(repo: str, private: bool = True) -> str:
    """Make sure that `repo` can be pushed to, and create it where it does not exist.

    Args:
        repo: `owner/name`, or a name under the account of the token.
        private: refuse a repository that anyone can read; an existing private one stays private whatever this says.

    Returns:
        Its full name.

    Raises:
        HubError: if the name is bad, the token is missing, wrong or can only read, or the Hub cannot be reached.

    >>> check_push("my dataset")
    Traceback (most recent call last):
    ser_hf.hub.HubError: 'my dataset' is no name for a dataset on the Hub: take owner/name, of letters, digits, -, _, .
    """
    return _open(repo, private, "dataset").id


def push_dataset(folder: str | PathLike, repo: str, private: bool = True) -> str:
    """Push the card, the audit, the Parquet shards and the pictures of a built dataset in one commit.

    Args:
        folder: a dataset that `ser-hf data` built; what else is in it stays local.
        repo: `owner/name`, or a name under the account of the token; created where it does not exist.
        private: refuse a repository that anyone can read.

    Returns:
        The address of the commit; that of the last one where nothing has changed.

    Raises:
        HubError: as `check_push`, or if the folder is no dataset or the upload fails; then nothing is committed.
    """
    files = _files(Path(folder), "dataset")
    if "README.md" not in files or not any(name.endswith(".parquet") for name in files):
        raise HubError(f"'{folder}' holds no README.md with data/*.parquet to push to '{repo}': run `ser-hf data`")
    return _commit(files, repo, private, "dataset")


def push_model(folder: str | PathLike, repo: str, private: bool = True, allow_leaky: bool = False) -> str:
    """Push a model with its card, pictures and `results.json` in one commit, if its evidence holds.

    Args:
        folder: that fine-tuning wrote; checkpoints, curves and answers in it stay local.
        repo: `owner/name`, or a name under the account of the token; created where it does not exist.
        private: refuse a repository that anyone can read.
        allow_leaky: push figures of speakers who were heard in training, too; the card is stamped with that.

    Returns:
        The address of the commit; that of the last one where nothing has changed.

    Raises:
        UserError: for a folder that is no trained model, evidence of other weights, figures in the card that are not in
            `results.json`, no speakers held out; or as `check_push`. Then nothing is committed.
    """
    provenance.check(Path(folder), allow_leaky)
    return _commit(_files(Path(folder), "model") | provenance.public(Path(folder), repo), repo, private, "model")


def _files(folder: Path, kind: str) -> dict[str, Path]:
    found = [path for pattern in _FILES[kind] for path in sorted(folder.glob(pattern))]
    return {path.relative_to(folder).as_posix(): path for path in found}


def _commit(files: dict[str, Path | bytes], repo: str, private: bool, kind: str) -> str:
    info = _open(repo, private, kind)
    there = [sibling.rfilename for sibling in info.siblings or []]
    stale = [name for name in there if name not in files and _REMADE.fullmatch(name)]
    # upload_folder splits many files, or a commit that failed, into several commits: half a dataset could be left
    with _one_line(info.id):
        commit = HfApi().create_commit(
            info.id,
            [
                *(CommitOperationDelete(name, is_folder=False) for name in stale),
                *(CommitOperationAdd(name, path) for name, path in files.items()),
            ],
            commit_message=f"Upload {kind} with ser_hf",
            repo_type=kind,
            parent_commit=info.sha,  # the stale files are those of this commit
        )
    return commit.commit_url


def _open(repo: str, private: bool, kind: str) -> DatasetInfo | ModelInfo:
    try:
        validate_repo_id(repo)
    except errors.HFValidationError:
        raise HubError(
            f"'{repo}' is no name for a {kind} on the Hub: take owner/name, of letters, digits, -, _, ."
        ) from None
    api = HfApi()
    with _one_line(repo):
        account = api.whoami()
    # An existing repository answers a token that can only read as if all were well, until the commit is refused.
    if account.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise HubError(f"'{repo}': the token can only read; {_REMEDIES[403]}")
    name = repo if "/" in repo else f"{account['name']}/{repo}"
    with _one_line(name):
        api.create_repo(name, repo_type=kind, private=private, exist_ok=True)
        info = api.repo_info(name, repo_type=kind)
    if private and not info.private:
        raise HubError(f"'{name}' is public on the Hub: make it private in its settings there, or pass --public")
    return info


@contextmanager
def _one_line(repo: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into a `HubError`.

    HTTPError is that of its HTTP library, whose name changed with version 2; uploads raise RuntimeError, a card that
    the Hub rejects ValueError, and hf_xet, tokens, offline mode and files OSError.
    """
    try:
        yield
    except (errors.HTTPError, OSError, RuntimeError, ValueError) as error:
        raise HubError(f"'{repo}': {_explain(error)}") from error


def _explain(error: Exception) -> str:
    if isinstance(error, errors.LocalTokenNotFoundError):
        return f"no token for the Hub was found: {_REMEDIES[401]}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "offline mode keeps the Hub out of reach: unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE"
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        default = "the Hub is in trouble, push again later" if status >= 500 else "push again when that is mended"
        said = f" ({_short(error.server_message)})" if error.server_message else ""
        return f"the Hub answered {status}{said}: {_REMEDIES.get(status, default)}"
    if isinstance(error, errors.HTTPError):
        return f"the Hub cannot be reached ({_short(str(error))}): check the network and HF_ENDPOINT"
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, errors.HTTPError):  # of one file of many
        return _explain(error.__cause__)
    return f"not pushed ({_short(str(error))}): push again when that is mended"


def _short(message: str) -> str:
    return " ".join(message.split())[:160] or "no reason given"
