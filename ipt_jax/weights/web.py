"""Weights by their address on the web or in a bucket: downloaded once, checked, kept in a cache.

`https://host/IPT_sr2.safetensors` names a file, and `https://host/ipt/model.json` the weights
folder that holds it. `#sha256=...` at the end states the checksum that the file must have. Each
download has a folder of its own in the user's cache: the file, and `source.json`, which says where
it comes from. Nothing in a file is executed; see `tensor_files`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import tempfile
import time
import urllib.parse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from etils import epath

from ipt_jax.errors import DownloadError, WeightsError
from ipt_jax.log import logger
from ipt_jax.messages import first_line, printable, stderr
from ipt_jax.storage import replace_text
from ipt_jax.versions import __version__
from ipt_jax.weights.default import cache
from ipt_jax.weights.tensor_files import LARGEST, sha256_of

# Seconds to wait for a connection, and for the next bytes.
TIMEOUTS = (10.0, 60.0)
# Bytes that are read at once.
BLOCK = 1 << 20
# A download of more bytes than this is announced in the log, and has a progress bar.
LONG = 8 << 20
# Hosts that may be asked without encryption.
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
RECORD = "source.json"
MODEL = "model.json"
TENSORS = "weights.safetensors"


@dataclasses.dataclass(frozen=True)
class Address:
    """An address, taken apart.

    Attributes:
      url: the address without the checksum.
      sha256: the SHA-256 that the user demands, in hexadecimal; "" for none.
    """

    url: str
    sha256: str = ""

    @property
    def shown(self) -> str:
        """The address for messages and records, without a password and without a query.

        The query of a signed address gives access to the file.
        """
        parts = urllib.parse.urlsplit(self.url)
        host = parts.netloc.rsplit("@", 1)[-1]
        return printable(urllib.parse.urlunsplit((parts.scheme, host, parts.path, "", "")))

    @property
    def name(self) -> str:
        """The name of the file."""
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.url).path)
        # The name becomes that of a local file.
        return re.sub(r"[^\w.+-]", "_", path.rsplit("/", 1)[-1]).lstrip(".")[-128:]


def split_checksum(address: str) -> tuple[str, str]:
    """Separates `#sha256=...` from an address.

    Returns:
      The address without it, and the checksum in lower case; "" if there is none.

    Raises:
      WeightsError: what follows `#` is not a SHA-256.
    """
    url, mark, fragment = address.partition("#")
    found = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
    if mark and found is None:
        raise WeightsError(
            f"weights {printable(address)}: after # comes the checksum, sha256= and 64 "
            "hexadecimal digits, as the command sha256sum prints them"
        )
    return url, found[1].lower() if found else ""


def parse_address(text: str) -> Address:
    """Takes an address apart and checks it.

    Raises:
      WeightsError: it names no file, is not encrypted, or has an invalid checksum.
    """
    url, sha256 = split_checksum(text)
    address = Address(url, sha256)
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname
        parts.port  # noqa: B018  a port that is no number raises ValueError
    except ValueError as error:
        raise WeightsError(f"weights {printable(url)}: not an address ({error})") from None
    if not host:
        raise WeightsError(f"weights {printable(url)}: the address names no host")
    check_encrypted(url, address.shown)
    if not address.name:
        raise WeightsError(
            f"weights {address.shown}: the address names no file; give that of a .safetensors, "
            f".npz, .pt or .ckpt file, or of the {MODEL} of a weights folder"
        )
    return address


def check_encrypted(url: str, shown: str) -> None:
    """Raises WeightsError if an address is http:// and its host is another machine."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "http" and parts.hostname not in LOCAL_HOSTS:
        raise WeightsError(
            f"weights {shown}: http:// is not encrypted, so that the file could be replaced on its "
            "way; use https://"
        )


def downloads() -> Path:
    """Returns the folder of the downloads, `<the user's cache>/ipt_jax/downloads`."""
    return cache().with_name("downloads")


def fetch(text: str) -> Path:
    """Returns the local copy of a file, or of a weights folder, on the web.

    The copy in the cache is used if its checksum is the one that the user demands, or if the server
    says that the file has not changed, or, with a warning, if the server cannot be reached.

    Args:
      text: `https://...`; `http://` for this machine only. `#sha256=...` may follow.

    Returns:
      The file, or the folder if the address names a `model.json`.

    Raises:
      WeightsError: the address is not valid, there is no such file, access is denied, what came is
        no weights file, or its checksum is another one.
      DownloadError: the network or the server fails, or the download ended early.
    """
    address = parse_address(text)
    file = _fetch_file(address)
    if address.name != MODEL:
        return file
    tensors = urllib.parse.urlsplit(address.url)
    path = tensors.path.rsplit("/", 1)[0] + "/" + TENSORS
    # `model.json` has the checksum of the tensors, which the reader of the folder compares.
    _fetch_file(Address(urllib.parse.urlunsplit(tensors._replace(path=path))), file.parent)
    return file.parent


def _fetch_file(address: Address, folder: Path | None = None) -> Path:
    """Returns the local copy of a file; in `folder`, or in a folder of its own."""
    if folder is None:
        key = hashlib.sha256(address.url.encode()).hexdigest()[:16]
        folder = downloads() / key
    file = folder / address.name
    record = _intact_record(file)
    if record and address.sha256 and record["sha256"] == address.sha256:
        return file
    with _explained(address), _session() as session:
        # The bytes are counted and checked as they are stored, so the server must not pack them.
        headers = {"Accept-Encoding": "identity", "User-Agent": f"ipt_jax/{__version__}"}
        if record and not address.sha256:
            for header, kept in (("If-None-Match", "etag"), ("If-Modified-Since", "modified")):
                if record.get(kept):
                    headers[header] = record[kept]
        try:
            reply = session.get(address.url, stream=True, timeout=TIMEOUTS, headers=headers)
            if reply.status_code == 429 or reply.status_code >= 500:
                check_status(reply.status_code, address.shown)
        except (OSError, DownloadError) as error:
            if not record or address.sha256 or isinstance(error, _Refused):
                raise
            logger.warning(
                "%s cannot be reached (%s); the copy of %s is used",
                address.shown,
                type(error).__name__,
                record.get("at", "an earlier download"),
            )
            return file
        with reply:
            if reply.status_code == 304 and record:
                return file
            check_status(reply.status_code, address.shown)
            kind = reply.headers.get("Content-Type", "")
            length = reply.headers.get("Content-Length", "")
            packed = "Content-Encoding" in reply.headers
            size = int(length) if length.isdigit() and not packed else None
            blocks = reply.iter_content(BLOCK)
            digest = save(blocks, file, address, size=size, kind=kind)
            _record(
                file,
                address.shown,
                digest,
                etag=reply.headers.get("ETag", ""),
                modified=reply.headers.get("Last-Modified", ""),
            )
    return file


class _Refused(OSError):
    """A redirection to an address that is not encrypted."""


def _session() -> Any:
    """Returns a session of requests that asks only this machine without encryption."""
    import requests
    from requests.adapters import HTTPAdapter

    class Local(HTTPAdapter):
        def send(self, request: Any, *args: Any, **settings: Any) -> Any:
            """Sends a request, also one that follows a redirection."""
            url = str(request.url)
            try:
                check_encrypted(url, Address(url).shown)
            except WeightsError as error:
                raise _Refused(str(error)) from None
            return super().send(request, *args, **settings)

    session = requests.Session()
    session.mount("http://", Local())
    return session


def check_status(status: int, shown: str) -> None:
    """Checks the status of a server's answer.

    Raises:
      WeightsError: there is no such file, or access is denied.
      DownloadError: the server fails.
    """
    if status == 200:
        return
    if status in (401, 403):
        raise WeightsError(
            f"weights {shown}: the server denies access ({status}); the file may need a login, or "
            "the address may have expired: download it with a browser and give the local file"
        )
    if status in (404, 410):
        raise WeightsError(f"weights {shown}: there is no such file ({status}); check the address")
    wait = "; wait a while and repeat the command" if status == 429 or status >= 500 else ""
    raise DownloadError(f"weights {shown}: the server answers with status {status}{wait}")


@contextlib.contextmanager
def _explained(address: Address) -> Iterator[None]:
    """Turns the errors of requests into one line with advice."""
    import requests

    try:
        yield
    except _Refused as error:
        raise WeightsError(str(error)) from None
    except requests.exceptions.SSLError as error:
        raise DownloadError(
            f"weights {address.shown}: the server's certificate is not trusted "
            f"({_reason(error)}); check the address, the clock, and REQUESTS_CA_BUNDLE if a proxy "
            "has a certificate of its own"
        ) from None
    except requests.exceptions.Timeout:
        raise DownloadError(
            f"weights {address.shown}: the server did not answer in time; repeat the command"
        ) from None
    except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError):
        raise DownloadError(
            f"weights {address.shown}: the download ended early; repeat the command"
        ) from None
    except requests.exceptions.ConnectionError as error:
        # A connection that breaks while the file is read is one of these, too.
        raise DownloadError(
            f"weights {address.shown}: the server cannot be reached ({_reason(error)}); check the "
            "address, the network and the proxy (HTTPS_PROXY), or copy the file to this machine "
            "and name it"
        ) from None
    except requests.exceptions.RequestException as error:
        raise WeightsError(f"weights {address.shown}: {first_line(error)}") from None


def _reason(error: BaseException) -> str:
    """Returns the innermost reason of an error of requests, such as "Connection refused"."""
    text = str(error)
    found = re.findall(r"\[Errno -?\d+\] ([^'\")]+)|timed out|\[SSL[^]]*\] ([^(]+)", text)
    words = [word.strip() for pair in found for word in pair if word]
    return words[-1] if words else type(error).__name__


def save(
    blocks: Iterable[bytes], file: Path, address: Address, *, size: int | None, kind: str = ""
) -> str:
    """Writes a file of weights from the blocks of a download. The file appears when it is complete.

    Args:
      blocks: the bytes of the file.
      file: the file to write; its folder is made.
      address: where the bytes come from, and the checksum that they must have.
      size: the number of bytes that the server announced; None if it did not.
      kind: the server's Content-Type.

    Returns:
      The SHA-256 of the file.

    Raises:
      WeightsError: it is not a weights file, is too large, or has another checksum.
      DownloadError: there are fewer or more bytes than announced.
      OSError: the file cannot be written.
    """
    from tqdm import tqdm

    if size is not None and size > LARGEST:
        raise WeightsError(
            f"weights {address.shown}: {size:,} bytes, more than the limit of {LARGEST:,}"
        )
    if size is not None and size > LONG:
        logger.info("downloading %s (%.0f MB) into %s", address.shown, size / 1e6, file.parent)
    file.parent.mkdir(parents=True, exist_ok=True)
    _remove_old_parts(file.parent)
    digest, count = hashlib.sha256(), 0
    # Each process writes a file of its own, so that two that download the same do not mix.
    descriptor, part = tempfile.mkstemp(prefix=f".{file.name}.", suffix=".part", dir=file.parent)
    bar = tqdm(
        total=size,
        desc=file.name,
        unit="B",
        unit_scale=True,
        file=stderr(),
        disable=not stderr().isatty() or (size or 0) <= LONG,
    )
    try:
        with os.fdopen(descriptor, "wb") as stream, bar:
            for block in blocks:
                if not count:
                    check_first_bytes(block, file.name, address.shown, kind)
                count += len(block)
                if count > LARGEST:
                    raise WeightsError(
                        f"weights {address.shown}: more than the limit of {LARGEST:,} bytes"
                    )
                digest.update(block)
                stream.write(block)
                bar.update(len(block))
        if size is not None and count != size:
            raise DownloadError(
                f"weights {address.shown}: the download ended early, after {count:,} of {size:,} "
                "bytes; repeat the command"
            )
        if not count:
            raise WeightsError(f"weights {address.shown}: an empty file came")
        check_sha256(digest.hexdigest(), address.sha256, address.shown)
        # mkstemp lets only its owner read; other files of a cache have the usual permissions.
        os.chmod(part, 0o666 & ~_umask())
        os.replace(part, file)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
    return digest.hexdigest()


def _remove_old_parts(folder: Path) -> None:
    """Removes the parts of downloads that were killed more than a day ago."""
    for part in folder.glob(".*.part"):
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > 86400:
                part.unlink()


def _umask() -> int:
    """Returns this process' umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def check_sha256(found: str, wanted: str, shown: str) -> None:
    """Raises WeightsError if the user demands a checksum, and a file has another one."""
    if wanted and found != wanted:
        raise WeightsError(
            f"weights {shown}: its SHA-256 is {found}, not {wanted} as #sha256= demands; the file "
            "is another one or was changed, and it is not used"
        )


def check_first_bytes(block: bytes, name: str, shown: str, kind: str = "") -> None:
    """Checks by its first bytes that a download is a file of weights.

    Args:
      block: the first bytes, some hundred at least unless the file has fewer.
      name: the name of the file.
      shown: the address, for the message.
      kind: the server's Content-Type.

    Raises:
      WeightsError: it is a page of a web site, or something else.
    """
    text = block[:512].lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")) or (
        kind.startswith("text/html") and text.startswith(b"<")
    ):
        raise WeightsError(
            f"weights {shown}: a web page came, not a file of weights. The address may be that of "
            "the page about the file, or need a login; copy the address of the download itself "
            "(on huggingface.co, /resolve/ in place of /blob/)"
        )
    if text.startswith(b"version https://git-lfs"):
        raise WeightsError(
            f"weights {shown}: a pointer of Git LFS came, not the file; use the address of the "
            "download (on github.com, of media.githubusercontent.com)"
        )
    if name == MODEL:
        good = text.startswith(b"{")
    else:
        # Safetensors begins with the length of its header, which begins with "{". The others: a zip
        # archive (.pt, .npz), a pickle (older .pt), and a protocol buffer (MindSpore's .ckpt).
        good = block[8:9] == b"{" or block.startswith((b"PK", b"\x80", b"\n"))
    if not good:
        raise WeightsError(
            f"weights {shown}: what came is not a file of weights (.safetensors, .npz, .pt, "
            f".ckpt){f'; the server calls it {printable(kind)}' if kind else ''}; check the address"
        )


def fetch_from_bucket(path: epath.Path) -> Path:
    """Returns the local copy of a weights folder or file in a bucket.

    The copy in the cache is used while the size and the time of the object are those of the copy.

    Args:
      path: a file, or a folder that contains `model.json`.

    Raises:
      WeightsError: it is not a weights file.
      OSError: the bucket cannot be reached, or the file cannot be written.
    """
    text = os.fspath(path)
    folder = downloads() / hashlib.sha256(text.encode()).hexdigest()[:16]
    if not (path / MODEL).exists():
        return _copy(path, folder)
    for name in (MODEL, TENSORS):
        if not (path / name).exists():
            raise WeightsError(f"{text}: no {name} beside {MODEL}")
        _copy(path / name, folder)
    return folder


def _copy(path: epath.Path, folder: Path) -> Path:
    """Copies a file of a bucket into a folder, unless the same is there."""
    status = path.stat()
    modified = f"{status.length} bytes at {status.mtime}"
    file = folder / path.name
    record = _intact_record(file)
    if record and record.get("modified") == modified:
        return file
    address = Address(os.fspath(path))
    with path.open("rb") as stream:
        blocks = iter(lambda: stream.read(BLOCK), b"")
        digest = save(blocks, file, address, size=status.length)
    _record(file, address.url, digest, modified=modified)
    return file


def _record(file: Path, shown: str, digest: str, *, etag: str = "", modified: str = "") -> None:
    """Writes down where a file of the cache comes from."""
    import datetime

    record = {
        "address": shown,
        "sha256": digest,
        "etag": etag,
        "modified": modified,
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    known = _records(file.parent)
    known[file.name] = record
    replace_text(file.parent / RECORD, json.dumps(known, indent=1) + "\n")


def _records(folder: Path) -> dict[str, dict[str, str]]:
    """Returns the records of a folder of the cache by file; {} if they are missing or damaged."""
    try:
        known = json.loads((folder / RECORD).read_text())
        return {
            str(name): {str(key): str(value) for key, value in record.items()}
            for name, record in known.items()
        }
    except (OSError, ValueError, AttributeError):
        return {}


def _intact_record(file: Path) -> dict[str, str]:
    """Returns the record of a file of the cache if the file is what was downloaded, else {}."""
    record = _records(file.parent).get(file.name, {})
    with contextlib.suppress(OSError):
        if record and sha256_of(file) == record.get("sha256"):
            return record
    return {}


def cached() -> Iterator[tuple[str, Path]]:
    """Yields the address and the path of each file and weights folder in the cache of downloads."""
    for record in sorted(downloads().glob(f"*/{RECORD}")):
        known = _records(record.parent)
        if MODEL in known:
            yield known[MODEL].get("address", ""), record.parent
            continue
        for name, entry in known.items():
            if (record.parent / name).is_file():
                yield entry.get("address", ""), record.parent / name
