"""Push datasets and models to the Hugging Face Hub, to be loaded without this package."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Literal

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    errors,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.hf_api import DatasetInfo, ModelInfo, SpaceInfo
from huggingface_hub.utils import validate_repo_id

from ser_hf.errors import UserError
from ser_hf.utils import hub_errors

Kind = Literal["dataset", "model", "space"]

_FILES = {
    "dataset": ("README.md", "audit.json", "data/*.parquet", "pictures/*.png"),
    "model": ("README.md", "*.json", "*.safetensors", "*.txt", "LICENSE*", "NOTICE*", "plots/*.png"),
}
_REPLACED = {
    "dataset": re.compile(r"data/[^/]+\.parquet|pictures/[^/]+\.png"),
    "model": re.compile(r"[^/]+\.safetensors(\.index\.json)?|plots/[^/]+\.png"),
    "space": re.compile(r"ser_hf/.+|chunk-[^/]+\.js|(?:examples|onnx|ort)/[^/]+"),
}
"""What each push of a kind writes anew; such a file on the Hub that no push brings is deleted."""

_LARGE = (".parquet", ".safetensors")
_SMALL = ["README.md", "results.json", "config.json", "plots/*.png"]
_BRANCH = re.compile(r"(?!refs/)(?!.*(?:\.\.|//))\w(?:[\w./-]*\w)?")
_COMMIT = re.compile(r"(?=.*[a-f])[0-9a-f]{7,40}|[0-9]{40}")


class HubError(UserError):
    """The Hub cannot be reached, refuses, or must not have the data."""


def check_push(repo: str, private: bool = True) -> str:
    """Make sure that `repo` can be pushed to, and create it where it does not exist.

    Args:
        repo: `owner/name`, or a name under the account of the token.
        private: refuse a repository that anyone can read; an existing private one stays private
            whatever this says.

    Returns:
        Its full name.

    Raises:
        HubError: if the name is bad, the token is missing, wrong or can only read, or the Hub
            cannot be reached.

    >>> check_push("my dataset")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ser_hf.hub.repositories.HubError: 'my dataset' is no name for a dataset on the Hub: take ...
    """
    return _writable(repo, private, "dataset").id


def check_name(repo: str, kind: Kind) -> None:
    """Refuse a name before the Hub is asked.

    Raises:
        HubError: if no repository can be called so.
    """
    try:
        validate_repo_id(repo)
    except errors.HFValidationError:
        raise HubError(
            f"'{repo}' is no name for a {kind} on the Hub: take owner/name, of letters, digits, -, _, ."
        ) from None


def full_name(repo: str) -> str:
    """`owner/name`, with the account of the token where a name has no owner.

    Raises:
        HubError: if the token is missing or wrong, or the Hub cannot be reached.
    """
    if "/" in repo:
        return repo
    with _as_hub_error(repo):
        return f"{HfApi().whoami()['name']}/{repo}"


def push_dataset(folder: str | PathLike, repo: str, private: bool = True) -> CommitInfo:
    """Push the card, audit, Parquet shards and pictures of a built dataset in one commit.

    Args:
        folder: a dataset that `ser-hf data` built; what else is in it stays local.
        repo: `owner/name`, or a name under the account of the token; created where it does not
            exist.
        private: refuse a repository that anyone can read.

    Returns:
        As `commit_files`.

    Raises:
        HubError: as `commit_files`, or if the folder is no dataset; then nothing is committed.
    """
    files = _files(Path(folder), "dataset")
    if "README.md" not in files or not any(name.endswith(".parquet") for name in files):
        raise HubError(f"'{folder}' holds no README.md with data/*.parquet to push to '{repo}': run `ser-hf data`")
    return commit_files(files, repo, private, "dataset")


def push_model(
    folder: str | PathLike, repo: str, private: bool = True, allow_leaky: bool = False, revision: str | None = None
) -> CommitInfo:
    """Push a model with its card, pictures and `results.json` in one commit, if its evidence holds.

    Args:
        folder: that fine-tuning wrote; checkpoints, curves and answers in it stay local.
        repo: `owner/name`, or a name under the account of the token; created where it does not
            exist.
        private: refuse a repository that anyone can read.
        allow_leaky: push figures of speakers of the training, too; the card is stamped with that.
        revision: the branch, created from main where it does not exist; main if None.

    Returns:
        As `commit_files`.

    Raises:
        UserError: for a folder that is no trained model, evidence of other weights, figures in the
            card that are not in `results.json`, no speakers held out; or as `commit_files`. Then
            nothing is committed.
    """
    if not Path(folder).is_dir():
        raise HubError(f"'{folder}' is no folder: give the one that fine-tuning wrote, to push it to '{repo}'")
    check_name(repo, "model")
    _check_branch(revision, repo)
    from ser_hf.hub import checks  # needs torch, which nothing else here does

    checks.check_evidence(Path(folder), allow_leaky)
    name = full_name(repo)
    files = _files(Path(folder), "model") | checks.public_files(Path(folder), name, revision)
    return commit_files(files, name, private, "model", revision)


def commit_files(
    files: Mapping[str, Path | bytes],
    repo: str,
    private: bool,
    kind: Kind,
    revision: str | None = None,
    sdk: Literal["gradio", "static"] = "gradio",
) -> CommitInfo:
    """Commit files to a repository, and delete those of an earlier push that are not among them.

    All other files in the repository stay.

    Large files are sent one by one before the commit. The Hub keeps what it has of a push that
    broke off, so that the next one sends the rest.

    Args:
        files: where each lies, or what is in it, by its name in the repository.
        repo: `owner/name`, or a name under the account of the token; created where it does not
            exist.
        private: refuse a repository that anyone can read.
        kind: of repository.
        revision: the branch, created from main where it does not exist; main if None.
        sdk: of a Space that is created.

    Returns:
        The address of the commit, with `oid` and `repo_url`; that of the last one where nothing has
        changed.

    Raises:
        HubError: as `check_push`; for a revision that is no branch; or if the upload fails. Then
            nothing is committed.
    """
    info = _writable(repo, private, kind, revision, sdk)
    present = [sibling.rfilename for sibling in info.siblings or []]
    stale = [name for name in present if name not in files and _REPLACED[kind].fullmatch(name)]
    # HfApi.upload_folder(delete_patterns=…) would do this, but where hf_xet is installed it commits
    # in several parts. A push that broke off would leave half a dataset.
    api = HfApi()
    with _as_hub_error(info.id):
        added = [CommitOperationAdd(name, path) for name, path in files.items()]
        for addition in added:
            if addition.path_in_repo.endswith(_LARGE):
                api.preupload_lfs_files(info.id, [addition], repo_type=kind, revision=revision, free_memory=False)
        return api.create_commit(
            info.id,
            [*(CommitOperationDelete(name, is_folder=False) for name in stale), *added],
            commit_message=f"Upload {kind} with ser_hf",
            repo_type=kind,
            revision=revision,
            parent_commit=info.sha,  # the stale files are those of this commit
        )


def find_model(model: str, revision: str | None = None) -> ModelInfo:
    """The Hub's record of a model: its full name, its commit, whether it is private or gated.

    Args:
        model: its id.
        revision: a branch, tag or commit; main if None.

    Raises:
        HubError: if there is none, or the token may not see it.
    """
    check_name(model, "model")
    with _as_hub_error(f"{model}' at '{revision}" if revision else model):
        return HfApi().model_info(model, revision=revision)


def snapshot(model: str | PathLike, revision: str | None = None) -> tuple[Path, str | None]:
    """A folder with a model's card, `results.json` and pictures, as far as they exist.

    Args:
        model: a folder, which is given back as it is, or a Hub id, of which only these small files
            are fetched, and those that the cache has where the Hub cannot be reached.
        revision: a branch, tag or commit of a Hub id.

    Returns:
        The folder, and the commit of a Hub id.

    Raises:
        HubError: where the Hub has no such model or revision, or cannot be reached and the cache
            has nothing of it.
    """
    if Path(model).is_dir():
        return Path(model), None
    with _as_hub_error(f"{model}' at '{revision}" if revision else str(model)):
        try:
            folder = Path(snapshot_download(str(model), revision=revision, allow_patterns=_SMALL))
        except errors.LocalEntryNotFoundError:
            # some of these files may never have been fetched; the config was, to load the model
            cached = try_to_load_from_cache(str(model), "config.json", revision=revision)
            if not isinstance(cached, str):
                raise
            folder = Path(cached).parent
    return folder, folder.name


def _files(folder: Path, kind: str) -> dict[str, Path | bytes]:
    paths = [path for pattern in _FILES[kind] for path in sorted(folder.glob(pattern))]
    return {path.relative_to(folder).as_posix(): path for path in paths}


def _writable(
    repo: str, private: bool, kind: Kind, branch: str | None = None, sdk: str = "gradio"
) -> DatasetInfo | ModelInfo | SpaceInfo:
    check_name(repo, kind)
    _check_branch(branch, repo)
    api = HfApi()
    with _as_hub_error(repo):
        account = api.whoami()
    # An existing repository answers a token that can only read as if all were well, until the
    # commit is refused.
    if account.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise HubError(f"'{repo}': the token can only read; {hub_errors.MAY_WRITE}")
    name = repo if "/" in repo else f"{account['name']}/{repo}"
    with _as_hub_error(name):
        of_space = {"space_sdk": sdk} if kind == "space" else {}
        api.create_repo(name, repo_type=kind, private=private, exist_ok=True, **of_space)
        info = api.repo_info(name, repo_type=kind)
    if private and not info.private:
        raise HubError(f"'{name}' is public on the Hub: make it private in its settings there, or pass --public")
    return info if branch in (None, "main") else _branch(name, kind, branch)


def _check_branch(branch: str | None, repo: str) -> None:
    if branch is None:
        return
    if _COMMIT.fullmatch(branch):
        raise HubError(f"'{branch}' is a commit, which a push to '{repo}' cannot change: give the name of a branch")
    if not _BRANCH.fullmatch(branch):
        raise HubError(f"'{branch}' is no name for a branch of '{repo}': take letters, digits, -, _, . and /")


def _branch(name: str, kind: Kind, branch: str) -> DatasetInfo | ModelInfo | SpaceInfo:
    """The Hub's record of a branch, created from main where there is none."""
    api = HfApi()
    with _as_hub_error(name):
        refs = api.list_repo_refs(name, repo_type=kind)
    if branch in [tag.name for tag in refs.tags]:
        raise HubError(f"'{branch}' is a tag, which a push to '{name}' cannot change: give the name of a branch")
    with _as_hub_error(name):
        api.create_branch(name, repo_type=kind, branch=branch, exist_ok=True)
        return api.repo_info(name, repo_type=kind, revision=branch)


@contextmanager
def _as_hub_error(repo: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into a `HubError`.

    HTTPError is that of its HTTP library, whose name changed with version 2; uploads raise
    RuntimeError, a card that the Hub rejects ValueError, and hf_xet, tokens, offline mode and files
    OSError.
    """
    try:
        yield
    except (errors.HTTPError, OSError, RuntimeError, ValueError) as error:
        reason, remedy = hub_errors.explain(error) or (hub_errors.short(str(error)), "try again when that is mended")
        raise HubError(f"'{repo}': {reason}: {remedy}") from error
