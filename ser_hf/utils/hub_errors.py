"""What the Hub, or the way to it, has against a request, and what mends that."""

from collections.abc import Iterator

from huggingface_hub import constants, errors

LOG_IN = "run `hf auth login`, or set HF_TOKEN to a token that is valid"
MAY_WRITE = "take a token that may write there, or a name under your own account"
_MAY = "take a token that may do this, or a name under your own account"

_REMEDIES = {
    401: LOG_IN,
    403: _MAY,
    404: "check the name, and that the token may see it",
    429: "wait until the Hub allows more requests and try again",
}
_ONLINE = "unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE"
_NETWORK = "check the network and HF_ENDPOINT"
_MESSAGES: dict[type[Exception], tuple[str, str]] = {
    errors.LocalTokenNotFoundError: ("no token for the Hub was found", LOG_IN),
    errors.GatedRepoError: ("it is gated", f"accept the conditions on its page on the Hub, and {LOG_IN}"),
    errors.RevisionNotFoundError: ("the Hub has no such revision", "check the branch, tag or commit"),
    errors.RepositoryNotFoundError: (
        "the Hub has none of that name, or hides it from this token",
        f"check the name, or {LOG_IN}",
    ),
    errors.OfflineModeIsEnabled: ("offline mode keeps the Hub out of reach", _ONLINE),
}
"""By kind, the narrower first."""


def explain(error: BaseException) -> tuple[str, str] | None:
    """Say reason and remedy of an error of huggingface_hub, or of one that it caused.

    HTTPError is that of its HTTP library, whose name changed with version 2.

    Returns:
        Two parts of a line, or None where the error says more itself: of a file that a repository
        lacks, of a card.
    """
    chain = list(_chain(error))
    for kind, line in _MESSAGES.items():
        if any(isinstance(link, kind) for link in chain):
            return line
    if any(isinstance(link, errors.RemoteEntryNotFoundError) or type(link) is ValueError for link in chain):
        return None
    for link in chain:
        if isinstance(link, errors.HfHubHTTPError):
            return _answered(link)
    for link in chain:
        if isinstance(link, errors.HTTPError):
            return f"the Hub cannot be reached ({short(str(link))})", _NETWORK
    if any(isinstance(link, errors.LocalEntryNotFoundError) for link in chain):
        return "the cache has none of it", _ONLINE if constants.HF_HUB_OFFLINE else _NETWORK
    return None


def short(message: str) -> str:
    """A message of any length as a part of a line."""
    return " ".join(message.split())[:160] or "no reason given"


def _answered(error: errors.HfHubHTTPError) -> tuple[str, str]:
    status = error.response.status_code
    default = "the Hub is in trouble, try again later" if status >= 500 else "try again when that is mended"
    detail = f" ({short(error.server_message)})" if error.server_message else ""
    return f"the Hub answered {status}{detail}", _REMEDIES.get(status, default)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised because of."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
