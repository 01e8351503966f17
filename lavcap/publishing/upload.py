"""Sending files to the Hub: one commit, so that a repository never holds half a model; errors in plain words."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from lavcap.hub import LOST, STRANGE, chain, cleaned_logs, concerns_hub, described, hide_token, is_lost, one_line
from lavcap.publishing.card import is_untouched
from lavcap.publishing.files import CARD, Files, is_ours
from lavcap.publishing.limits import limited_requests
from lavcap.publishing.space import is_part_of_a_page


Answer = TypeVar("Answer")
Kind = Literal["model", "space"]  # of a repository
IS_OURS = {"model": is_ours, "space": is_part_of_a_page}

FAILED = "the Hub had an error of its own"
REFUSALS = {
    401: "the Hub rejected the token, or there is none (401); nothing was uploaded. Log in by `hf auth login`, or set "
    "HF_TOKEN.",
    403: "the token may not write there (403); nothing was uploaded. Use one with write access to {owner}, or a "
    "repository of your own.",
    429: "the Hub got too many requests (429); the repository is as it was. Wait some minutes, and run the command "
    "again.",
    507: "the Hub has no room left for it (507); the repository is as it was. Delete there what {owner} no longer "
    "needs, or get more room.",
}
WHOLE = "An upload is one commit, there whole or not at all: no half model is on the Hub."
AGAIN = "the command again; large files that have arrived are not sent twice."


class UploadError(OSError):
    """The Hub did not take an upload, or could not be reached."""


@dataclass(frozen=True)
class Uploaded:
    """What became of an upload.

    Args:
        url: page of the repository or of its branch.
        deleted: files of an earlier model that are no longer there.
        kept_card: whether somebody's README stayed in place of the card.
    """

    url: str
    deleted: list[str]
    kept_card: bool


def check_repo_id(repo_id: str):
    """Refuse what cannot be a name on the Hub, before any work.

    Raises:
        ValueError: not `owner/name`.
    """
    if fault := _fault_in_name(repo_id):
        raise ValueError(f"{repo_id!r} is no name on the Hub ({fault}); expected owner/name.")
    if repo_id.count("/") != 1:
        raise ValueError(f"{repo_id!r} is no name on the Hub; expected owner/name.")


def check_datasets(names: Sequence[str]):
    """Refuse what a card cannot name as its training data, before any work.

    Raises:
        ValueError: no name of a data set.
    """
    for name in names:
        if fault := _fault_in_name(name):
            raise ValueError(f"{name!r} is no data set on the Hub ({fault}); expected owner/name.")


def open_repository(repo_id: str, token: str | None = None, private: bool | None = None, kind: Kind = "model"):
    """Make the repository, if it is not there; a token that is rejected shows here, before any upload.

    Raises:
        UploadError: no access, or no connection.
    """
    options = {"repo_type": kind, "private": private, "exist_ok": True}
    options |= {"space_sdk": "gradio"} if kind == "space" else {}
    _in_plain_words(repo_id, token, lambda api: api.create_repo(repo_id, **options))


def upload(
    files: Files,
    repo_id: str,
    *,
    message: str,
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    overwrite_card: bool = False,
    kind: Kind = "model",
) -> Uploaded:
    """Make one commit of files, in a repository that is made if it is not there.

    Files of an earlier model that are not among these are deleted by the same commit; other files stay. A README that
    was not written by [`lavcap.publishing.card.write_card`], or was edited since, stays too.

    Args:
        private: visibility of a repository that is made.
        revision: branch, which is made if it is not there.
        overwrite_card: replace somebody's README too.
        kind: of the repository.

    Raises:
        UploadError: no access, or no connection. The repository is then as it was.
    """
    open_repository(repo_id, token, private, kind)
    change = (message, revision, overwrite_card, kind)
    return _in_plain_words(repo_id, token, lambda api: _commit(api, files, repo_id, *change))


def _commit(
    api: HfApi, files: Files, repo_id: str, message: str, revision: str | None, overwrite_card: bool, kind: Kind
) -> Uploaded:
    if revision:
        api.create_branch(repo_id, branch=revision, exist_ok=True, repo_type=kind)
    before, there = _read_head(api, repo_id, revision, kind)
    kept_card = CARD in there and not overwrite_card and not _is_our_card(api, repo_id, before, kind)
    new = {name: content for name, content in files.items() if name != CARD or not kept_card}
    deleted = [name for name in there if IS_OURS[kind](name) and name not in new]
    # Not upload_folder, which may cut a large folder into several commits.
    api.create_commit(
        repo_id,
        [CommitOperationAdd(name, content) for name, content in sorted(new.items())]
        + [CommitOperationDelete(name) for name in deleted],
        commit_message=message,
        revision=revision,
        parent_commit=before,  # a README that somebody writes meanwhile is not lost
        repo_type=kind,
    )
    place = f"{api.endpoint}/{'spaces/' if kind == 'space' else ''}{repo_id}"
    return Uploaded(place + (f"/tree/{revision}" if revision else ""), deleted, kept_card)


def _read_head(api: HfApi, repo_id: str, revision: str | None, kind: Kind) -> tuple[str, list[str]]:
    """Commit that a branch is at, and the names of its files."""
    head = api.repo_info(repo_id, revision=revision, repo_type=kind)
    names = [file.rfilename for file in head.siblings or ()]
    if not all(isinstance(each, str) for each in (head.sha, *names)):
        fault = TypeError("a commit, or a name of a file, is no text")
        raise UploadError(f"{repo_id}: {_no_hub(fault)}")
    return head.sha, names


def _is_our_card(api: HfApi, repo_id: str, commit: str, kind: Kind) -> bool:
    path = Path(api.hf_hub_download(repo_id, CARD, revision=commit, repo_type=kind))
    return is_untouched(path.read_text(encoding="utf-8", errors="replace"))


def _fault_in_name(name: str) -> str | None:
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        return str(error)
    return None if name.isascii() else "letters are a to z and A to Z"  # older releases of the library take any


def _in_plain_words(repo_id: str, token: str | None, ask: Callable[[HfApi], Answer]) -> Answer:
    hide_token(token)
    try:
        with cleaned_logs(), limited_requests():
            return ask(HfApi(token=token))
    except Exception as error:
        if not concerns_hub(error) or getattr(error, "errno", None):  # such as a disk that is full
            raise
        reason = f"{repo_id}: {_reason(error, repo_id)}"
    # The error holds the library's progress bar, which would share its line with the message: it must be gone first.
    gc.collect()
    raise UploadError(reason)


def _reason(error: Exception, repo_id: str) -> str:
    if isinstance(error, OfflineModeIsEnabled):
        return "nothing was uploaded: HF_HUB_OFFLINE is set; unset it."
    errors = list(chain(error))
    refusal = next((each for each in errors if getattr(each, "response", None) is not None), None)
    if refusal is None and is_lost(error):
        return f"{LOST} ({described(errors[-1])}). {WHOLE} Run {AGAIN}"
    if refusal is None:
        return _no_hub(error)
    status = refusal.response.status_code
    if status in REFUSALS:
        return REFUSALS[status].format(owner=repo_id.partition("/")[0])
    # What is wrong with a card is in an error of its own, about that of the request.
    words = one_line(error if isinstance(error, ValueError) else refusal)
    if status == 408:
        return f"{LOST} ({words}). {WHOLE} Run {AGAIN}"
    if status < 500:
        return f"the Hub refused the upload ({words}); the repository is as it was."
    return f"{FAILED} ({words}). {WHOLE} Wait, and run {AGAIN}"


def _no_hub(error: Exception) -> str:
    """Message of an answer that the library, or this module, cannot read."""
    return (
        f"{STRANGE} ({described(error)}). {WHOLE} Check HF_ENDPOINT, and what is between here and the Hub, such as a "
        "proxy or a page of login, and run the command again."
    )
