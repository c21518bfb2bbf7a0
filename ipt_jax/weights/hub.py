"""Weights on a hub: `hf://org/name[@revision][/file][#sha256=...]`, read by huggingface_hub.

The package huggingface_hub (extra `hub`) has the cache, the tokens (HF_TOKEN, `hf auth login`), and
the variables HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE. This module finds the weights in a
repository, compares checksums, and turns errors into one line with advice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ipt_jax.errors import DownloadError, UserError, WeightsError
from ipt_jax.log import logger
from ipt_jax.messages import first_line, listed, nearest, printable
from ipt_jax.storage import open_regular
from ipt_jax.versions import __version__, install
from ipt_jax.weights.tensor_files import sha256_of
from ipt_jax.weights.web import MODEL, TENSORS, check_first_bytes, check_sha256, split_checksum

SUFFIXES = (".safetensors", ".npz", ".pt", ".pth", ".ckpt")
# Seconds to wait for the hub's answer to a question.
TIMEOUT = 20.0
_ADDRESS = re.compile(
    r"hf:/+(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/#]+))?(?:/(?P<file>[^#]*))?"
)


@dataclasses.dataclass(frozen=True)
class HubAddress:
    """An address on a hub, taken apart.

    Attributes:
      repo: "org/name".
      revision: a branch, tag or commit; "" for the default branch.
      file: the path of a file or folder in the repository; "" for the repository.
      sha256: the SHA-256 that the user demands of the file of tensors; "" for none.
    """

    repo: str
    revision: str = ""
    file: str = ""
    sha256: str = ""

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf://{self.repo}{revision}{f'/{self.file}' if self.file else ''}"


def parse_address(text: str) -> HubAddress:
    """Takes an address apart.

    A `/` in the name of a revision is written as `%2F`: `hf://org/name@pr%2F1`.

    Raises:
      WeightsError: it is not of the form `hf://org/name[@revision][/file][#sha256=...]`.
    """
    url, sha256 = split_checksum(text)
    found = _ADDRESS.fullmatch(url)
    file = (found["file"] or "").strip("/") if found else ""
    if found is None or any(part in ("", ".", "..") for part in file.split("/")[bool(not file) :]):
        raise WeightsError(
            f"weights {printable(text)}: an address on the hub has the form "
            "hf://ORG/NAME[@REVISION][/FILE][#sha256=...]"
        )
    revision = (found["revision"] or "").replace("%2F", "/").replace("%2f", "/")
    return HubAddress(found["repo"], revision, file, sha256)


def client(address: HubAddress) -> Any:
    """Returns the client of huggingface_hub.

    Raises:
      WeightsError: the package is not installed.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise WeightsError(
            f"{address}: addresses on a hub need huggingface_hub: {install('hub')}"
        ) from None
    endpoint = os.environ.get("HF_ENDPOINT") or None
    return HfApi(endpoint=endpoint, library_name="ipt_jax", library_version=__version__)


def fetch(text: str) -> Path:
    """Returns the local copy of weights on a hub, in huggingface_hub's cache.

    The repository, or the folder in it that the address names, is a weights folder, or has one file
    of weights. Of a revision that was read before, only what has changed is downloaded; if the hub
    cannot be reached, the copy is used with a warning.

    Args:
      text: `hf://org/name[@revision][/file][#sha256=...]`.

    Returns:
      The file, or the folder of `model.json` and `weights.safetensors`.

    Raises:
      WeightsError: the address is not valid, there is no such repository, revision or file, access
        is denied, a checksum differs, or huggingface_hub is not installed.
      DownloadError: the network or the hub fails, or the download ended early.
    """
    address = parse_address(text)
    api = client(address)
    commit, known = _listing(api, address)
    files = _choose(address, list(known))
    paths = {file: _download(api, address, commit, file, known[file]) for file in files}
    if known[files[0]].local is None:
        _remember_revision(api, address, commit, files[0])
    tensors = paths[files[-1]]
    if address.sha256:
        check_sha256(sha256_of(tensors), address.sha256, str(address))
    return tensors.parent if len(files) > 1 else tensors


@dataclasses.dataclass(frozen=True)
class _HubFile:
    """What the hub, or the cache, says about a file.

    Attributes:
      sha256: SHA-256 of a file that is stored by LFS; "".
      blob: Git's SHA-1 of another file; "".
      local: the copy in the cache, where the hub was not asked.
    """

    sha256: str = ""
    blob: str = ""
    local: Path | None = None


def _listing(api: Any, address: HubAddress) -> tuple[str, dict[str, _HubFile]]:
    """Returns the commit of a revision and its files: by the hub, or by the cache without it."""
    try:
        with explained(address):
            info = api.model_info(
                address.repo,
                revision=address.revision or None,
                files_metadata=True,
                timeout=TIMEOUT,
            )
    except DownloadError as error:
        found = _cached_listing(address)
        if found is None:
            raise
        reason = str(error).split(";")[0]
        logger.warning("%s; the copy of commit %s in the cache is used", reason, found[0][:12])
        return found
    files = {
        sibling.rfilename: _HubFile(
            sha256=lfs_sha256(sibling.lfs),
            blob="" if sibling.lfs else str(sibling.blob_id or ""),
        )
        for sibling in info.siblings or []
    }
    return str(info.sha), files


def lfs_sha256(lfs: Any) -> str:
    """Returns the SHA-256 in what the hub says about LFS; a dict or an object by the version."""
    if not lfs:
        return ""
    return str(lfs["sha256"] if isinstance(lfs, dict) else lfs.sha256)


def _cached_listing(address: HubAddress) -> tuple[str, dict[str, _HubFile]] | None:
    """Returns the commit and the files of a revision in the cache, or None."""
    wanted = address.revision or "main"
    for repo, revision in _cached_revisions():
        if repo != address.repo:
            continue
        commit = str(revision.commit_hash)
        if wanted in revision.refs or (len(wanted) >= 7 and commit.startswith(wanted)):
            return commit, {
                os.fspath(file.file_path.relative_to(revision.snapshot_path)): _HubFile(
                    sha256=_sha256_in_name(file.file_path), local=file.file_path
                )
                for file in revision.files
            }
    return None


def _sha256_in_name(file: Path) -> str:
    """Returns the SHA-256 that huggingface_hub gave as name to a file's blob; "" if it did not."""
    with contextlib.suppress(OSError):
        blob = Path(os.readlink(file)).name
        if re.fullmatch("[0-9a-f]{64}", blob):
            return blob
    return ""


def _cached_revisions() -> Iterator[tuple[str, Any]]:
    """Yields the name of each repository of a model in the cache, and each of its revisions."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    with contextlib.suppress(CacheNotFound, OSError):
        for repo in sorted(
            scan_cache_dir(constants.HF_HUB_CACHE).repos, key=lambda repo: repo.repo_id
        ):
            if repo.repo_type == "model":
                for revision in sorted(repo.revisions, key=lambda one: one.commit_hash):
                    yield repo.repo_id, revision


def _choose(address: HubAddress, names: list[str]) -> list[str]:
    """Returns the files of a repository that an address means, that of the tensors last.

    Raises:
      WeightsError: there is no such file, or there are none or several files of weights.
    """
    file = address.file
    if file.rsplit("/", 1)[-1] == MODEL and file in names:
        file = file.removesuffix(MODEL).rstrip("/")
    elif file in names:
        return [file]
    start = f"{file}/" if file else ""
    folder = [start + MODEL, start + TENSORS]
    if all(name in names for name in folder):
        return folder
    inside = [name for name in names if name.startswith(start) and "/" not in name[len(start) :]]
    weights = [name for name in inside if name.endswith(SUFFIXES)]
    if len(weights) == 1 and start + MODEL not in names:
        return weights
    every = [name for name in names if name.endswith(SUFFIXES)]
    if weights:
        raise WeightsError(
            f"weights {address}: there are several files; add the name of one to the address: "
            + listed(weights)
        )
    if file and not inside:
        raise WeightsError(
            f"weights {address}: the repository has no file or folder {file}"
            f"{nearest(file, names)}; its files of weights: {listed(every) or 'none'}"
        )
    raise WeightsError(
        f"weights {address}: there is neither a weights folder ({MODEL}, {TENSORS}) nor a file of "
        f"weights ({', '.join(SUFFIXES)}); in the repository: {listed(every or names) or 'nothing'}"
    )


def _download(api: Any, address: HubAddress, commit: str, name: str, known: _HubFile) -> Path:
    """Returns the local copy of a file; one that is damaged is downloaded again."""
    if known.local is not None:
        wrong = _difference(known.local, known)
        if wrong:
            raise WeightsError(
                f"weights {address}: {name} in the cache is damaged ({wrong}), and the hub cannot "
                f"be reached; delete {known.local} and repeat the command with a network"
            )
        return known.local
    wrong = ""
    for again in (False, True):
        with explained(address):
            path = Path(
                api.hf_hub_download(address.repo, name, revision=commit, force_download=again)
            )
        wrong = _difference(path, known)
        if not wrong:
            with open_regular(path) as file:
                check_first_bytes(file.read(512), name.rsplit("/", 1)[-1], str(address))
            return path
        if not again:
            logger.warning("%s: %s in the cache is damaged; it is downloaded again", address, name)
    raise WeightsError(
        f"weights {address}: {name} is not the file that the hub describes ({wrong}); it is not "
        f"used. Delete {path} and repeat the command"
    )


def _remember_revision(api: Any, address: HubAddress, commit: str, name: str) -> None:
    """Makes the cache know which commit a branch or tag is, for a later call without a network."""
    revision = address.revision or "main"
    if commit.startswith(revision):
        return
    # The client writes this down when it is asked for a file by the name of the branch.
    with contextlib.suppress(DownloadError), explained(address):
        api.hf_hub_download(address.repo, name, revision=revision)


def _difference(path: Path, known: _HubFile) -> str:
    """Returns how the checksum of a file differs from the hub's; "" if it does not."""
    if known.sha256:
        found = sha256_of(path)
        return "" if found == known.sha256 else f"its SHA-256 is {found}, not {known.sha256}"
    if known.blob:
        size = path.stat().st_size
        digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        with open_regular(path) as file:
            while block := file.read(1 << 20):
                digest.update(block)
        found = digest.hexdigest()
        return "" if found == known.blob else f"its Git hash is {found}, not {known.blob}"
    return ""


@contextlib.contextmanager
def explained(address: HubAddress, *, writes: bool = False) -> Iterator[None]:
    """Turns the errors of huggingface_hub into one line with advice.

    Args:
      address: what is read or written.
      writes: whether it is written, for the advice.

    Raises:
      WeightsError: there is no such repository, revision or file, or access is denied.
      DownloadError: the network or the hub fails.
    """
    from huggingface_hub import errors

    place = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    page = f"{place}/{address.repo}"
    right = "write" if writes else "read"
    token = f"set HF_TOKEN to a token that may {right} it, or run hf auth login"
    try:
        yield
    except (UserError, DownloadError):
        raise
    except errors.GatedRepoError:
        raise WeightsError(
            f"{address}: the repository is gated; ask for access at {page}, then {token}"
        ) from None
    except errors.RepositoryNotFoundError:
        raise WeightsError(
            f"{address}: there is no repository {address.repo} at {place}, or it is private; check "
            f"its name, and if it is private, {token}"
        ) from None
    except errors.RevisionNotFoundError:
        raise WeightsError(
            f"{address}: the repository has no revision {address.revision or 'main'!r}; a branch, "
            f"a tag or a commit is possible: {page}/commits lists them"
        ) from None
    except errors.LocalEntryNotFoundError as error:
        raise DownloadError(
            f"{address}: {place} cannot be reached ({_cause(error)}), and the cache has no copy; "
            "check the network and HF_ENDPOINT, and repeat the command"
        ) from None
    except errors.EntryNotFoundError:
        raise WeightsError(
            f"{address}: there is no such file; {page}/tree/main lists the files"
        ) from None
    except errors.HFValidationError as error:
        raise WeightsError(f"{address}: {first_line(error)}") from None
    except errors.OfflineModeIsEnabled:
        raise DownloadError(
            f"{address}: HF_HUB_OFFLINE is set"
            + (
                ""
                if writes
                else ", and the cache has no copy of this revision; load it once without "
                "HF_HUB_OFFLINE"
            )
        ) from None
    except errors.HfHubHTTPError as error:
        raise _status_error(error, address, token, place) from None
    except json.JSONDecodeError:
        raise DownloadError(
            f"{address}: what {place} answers is not the hub's; check HF_ENDPOINT and the proxy"
        ) from None
    # The hub does not accept the front matter of a README, or a file.
    except ValueError as error:
        raise WeightsError(f"{address}: {printable(' '.join(str(error).split()))}") from None
    # The bases of HfHubHTTPError are the error of the HTTP library, which depends on the client's
    # version, and OSError. A transfer that breaks may raise RuntimeError.
    except (*errors.HfHubHTTPError.__bases__, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno is not None and error.filename:
            raise
        cut = "size" in str(error) and "onsistency" in str(error)
        what = (
            "the download ended early"
            if cut
            else f"{place} cannot be reached, or the connection broke ({_cause(error)})"
        )
        raise DownloadError(
            f"{address}: {what}; check the network and HF_ENDPOINT, and repeat the command"
        ) from None


def _cause(error: BaseException) -> str:
    """Returns the innermost reason of an error in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return printable(first_line(error)) if isinstance(error, Exception) else type(error).__name__


def _status_error(
    error: Any, address: HubAddress, token: str, place: str
) -> WeightsError | DownloadError:
    """Returns the error for an answer with another status than 200."""
    status = int(error.response.status_code)
    if status == 401:
        return WeightsError(f"{address}: {place} does not accept the token (401); {token}")
    if status == 403:
        return WeightsError(f"{address}: {place} denies access (403); {token}")
    said = printable(getattr(error, "server_message", None) or "")
    if status == 429 or status >= 500:
        return DownloadError(
            f"{address}: {place} answers with status {status}; wait a while and repeat the command"
        )
    return DownloadError(
        f"{address}: {place} answers with status {status}{f': {said}' if said else ''}"
    )


def cached() -> Iterator[tuple[str, Path]]:
    """Yields the address and the path of each weights folder of this project in the hub's cache.

    The addresses name the commit where no branch or tag does. Nothing is yielded where
    huggingface_hub is not installed.
    """
    try:
        import huggingface_hub  # noqa: F401
    except ImportError:
        return
    for repo, revision in _cached_revisions():
        for file in sorted(revision.files, key=lambda file: os.fspath(file.file_path)):
            if file.file_name != MODEL or not _is_ours(file.file_path):
                continue
            folder = file.file_path.parent
            inside = os.fspath(folder.relative_to(revision.snapshot_path))
            refs = sorted(revision.refs)
            name = refs[0] if refs else str(revision.commit_hash)[:12]
            at = "" if name == "main" else name.replace("/", "%2F")
            yield str(HubAddress(repo, at, "" if inside == "." else inside)), folder


def _is_ours(file: Path) -> bool:
    """Returns whether a `model.json` describes weights of this project."""
    try:
        described = json.loads(file.read_text())
        tasks, model = described["tasks"], described["model"]
        return "format" in described and bool(tasks) and "encoder_layers" in model
    except (OSError, ValueError, KeyError, TypeError):
        return False
