"""A stand-in for a hub on 127.0.0.1: what huggingface_hub asks to read and to write models.

Paths and answers follow the hub's API (https://huggingface.co/docs/hub/api): information about a
repository, files (large ones by LFS, with a redirection), creation, branches, and commits with
their upload by LFS.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import json
import re
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from web_server import Quiet, serving

# Files of these names are stored by LFS.
LFS = (".safetensors", ".npz", ".pt", ".ckpt")


@dataclasses.dataclass
class Repo:
    """A repository.

    Attributes:
      branches: the commit of each branch.
      commits: the files of each commit.
      messages: the message of each commit.
      private: whether it may only be read with a token.
      gated: whether it may not be read at all.
    """

    branches: dict[str, str] = dataclasses.field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = dataclasses.field(default_factory=dict)
    messages: dict[str, str] = dataclasses.field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def commit(self, files: dict[str, bytes], branch: str = "main", message: str = "") -> str:
        """Adds files to a branch; returns the commit."""
        after = {**self.commits.get(self.branches.get(branch, ""), {}), **files}
        number = hashlib.sha1(f"{branch}{len(self.commits)}".encode()).hexdigest()
        self.commits[number], self.messages[number] = after, message
        self.branches[branch] = number
        return number


@dataclasses.dataclass
class Hub:
    """The state of the stand-in.

    Attributes:
      address: what HF_ENDPOINT must be.
      repos: the repositories by "org/name".
      token: the token that may write and read private repositories.
      asked: method and path of each request.
      status: a status with which every request is answered; 0 for none.
      damage: the number of downloads that are answered with other bytes.
      short: whether downloads end early.
    """

    address: str = ""
    repos: dict[str, Repo] = dataclasses.field(default_factory=dict)
    token: str = "hf_right"
    asked: list[str] = dataclasses.field(default_factory=list)
    blobs: dict[str, bytes] = dataclasses.field(default_factory=dict)
    status: int = 0
    damage: int = 0
    short: bool = False

    def set_up_client(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        """Makes huggingface_hub ask this stand-in, without a token, with its cache in a folder."""
        from huggingface_hub import constants

        settings = {
            "HF_HOME": str(folder),
            "HF_HUB_CACHE": str(folder / "hub"),
            "HF_TOKEN_PATH": str(folder / "token"),
            # The newer protocol for large files cannot be imitated here.
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_TELEMETRY": True,
        }
        # The client reads its environment once, when it is imported; new processes read it again.
        for name, value in settings.items():
            monkeypatch.setenv(name, str(value))
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_ENDPOINT", self.address)
        monkeypatch.setattr(constants, "ENDPOINT", self.address)
        template = self.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.delenv("HF_TOKEN", raising=False)


@contextlib.contextmanager
def running() -> Iterator[Hub]:
    """Runs a stand-in within the block."""
    state = Hub()

    class Handler(_Handler):
        hub = state

    with serving(Handler) as address:
        state.address = address
        yield state


class _Refusal(Exception):
    """An answer that is an error.

    Args:
      status: the status.
      code: the header X-Error-Code.
      name: the repository that exists already.
    """

    def __init__(self, status: int, code: str = "", name: str = ""):
        self.status, self.code, self.name = status, code, name


class _Handler(Quiet):
    hub: Hub

    def do_GET(self) -> None:
        self._handle()

    do_HEAD = do_POST = do_PUT = do_GET

    def _handle(self) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        url = urllib.parse.urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunks()
        try:
            if self.hub.status:
                raise _Refusal(self.hub.status)
            self._route(urllib.parse.unquote(url.path), urllib.parse.parse_qs(url.query), body)
        except _Refusal as refusal:
            headers = {"X_Error_Code": refusal.code} if refusal.code else {}
            url = {"url": f"{self.hub.address}/{refusal.name}"} if refusal.name else {}
            self.answer(refusal.status, json.dumps(url).encode(), **headers)

    def _chunks(self) -> bytes:
        parts = b""
        while size := int(self.rfile.readline(), 16):
            parts += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return parts

    def _json(self, content: Any) -> None:
        self.answer(200, json.dumps(content).encode(), Content_Type="application/json")

    @property
    def _is_owner(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def _repo(self, name: str, *, write: bool = False) -> Repo:
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and not self._is_owner):
            # The hub does not tell whether there is such a repository.
            raise _Refusal(404 if self._is_owner else 401, "RepoNotFound")
        if repo.gated:
            raise _Refusal(403, "GatedRepo")
        if write and not self._is_owner:
            raise _Refusal(403)
        return repo

    def _commit(self, repo: Repo, revision: str) -> str:
        commit = repo.branches.get(revision, revision)
        if commit not in repo.commits:
            raise _Refusal(404, "RevisionNotFound")
        return commit

    def _route(self, path: str, query: dict[str, list[str]], body: bytes) -> None:
        name = r"(?P<name>[^/]+/[^/]+)"
        routes = {
            rf"(GET|HEAD) /{name}/resolve/(?P<revision>.+?)/(?P<file>.+)": self._file,
            r"(GET|HEAD) /blob/(?P<sha256>\w+)": self._blob,
            rf"GET /api/models/{name}(/revision/(?P<revision>.+))?": self._info,
            r"POST /api/repos/create": self._create,
            rf"POST /api/models/{name}/branch/(?P<branch>.+)": self._branch,
            rf"POST /api/models/{name}/preupload/(?P<revision>.+)": self._preupload,
            rf"POST /{name}\.git/info/lfs/objects/batch": self._batch,
            r"PUT /upload/(?P<sha256>\w+)": self._upload,
            r"POST /verify": self._verify,
            rf"POST /api/models/{name}/commit/(?P<revision>.+)": self._add_commit,
            r"POST /api/validate-yaml": self._validate,
        }
        for pattern, handle in routes.items():
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                handle(body, **found.groupdict())
                return
        raise _Refusal(404)

    def _info(self, body: bytes, name: str, revision: str | None) -> None:
        repo = self._repo(name)
        commit = self._commit(repo, revision or "main")
        files = []
        for file, data in repo.commits[commit].items():
            entry: dict[str, Any] = {"rfilename": file, "size": len(data), "blobId": git_sha1(data)}
            if file.endswith(LFS):
                digest = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 134}
            files.append(entry)
        self._json({"id": name, "modelId": name, "sha": commit, "siblings": files, "tags": []})

    def _file(self, body: bytes, name: str, revision: str, file: str) -> None:
        repo = self._repo(name)
        commit = self._commit(repo, revision)
        data = repo.commits[commit].get(file)
        if data is None:
            raise _Refusal(404, "EntryNotFound")
        if file.endswith(LFS):
            digest = hashlib.sha256(data).hexdigest()
            self.hub.blobs[digest] = data
            # The hub's large files are on another host. The client follows redirections to the
            # same host before it looks at these headers.
            other = self.hub.address.replace("127.0.0.1", "localhost")
            self.answer(
                302,
                Location=f"{other}/blob/{digest}",
                X_Repo_Commit=commit,
                X_Linked_Etag=f'"{digest}"',
                X_Linked_Size=len(data),
            )
            return
        self.answer(200, data, X_Repo_Commit=commit, ETag=f'"{git_sha1(data)}"')

    def _blob(self, body: bytes, sha256: str) -> None:
        data = self.hub.blobs[sha256]
        if self.command == "GET" and self.hub.damage:
            self.hub.damage -= 1
            data = data[:-1] + bytes([data[-1] ^ 1])
        if self.command == "GET" and self.hub.short:
            self.answer(200, data[: len(data) // 2], Content_Length=len(data) // 2)
            return
        self.answer(200, data, ETag=f'"{sha256}"')

    def _create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if not self._is_owner:
            raise _Refusal(401)
        if name in self.hub.repos:
            raise _Refusal(409, name=name)
        private = asked.get("private") or asked.get("visibility") == "private"
        repo = self.hub.repos[name] = Repo(private=bool(private))
        repo.commit({".gitattributes": b"*.safetensors filter=lfs\n"}, message="initial commit")
        self._json({"url": f"{self.hub.address}/{name}", "name": name, "id": name})

    def _branch(self, body: bytes, name: str, branch: str) -> None:
        repo = self._repo(name, write=True)
        if branch in repo.branches:
            raise _Refusal(409)
        start = json.loads(body or b"{}").get("startingPoint", "main")
        repo.branches[branch] = self._commit(repo, start)
        self._json({})

    def _preupload(self, body: bytes, name: str, revision: str) -> None:
        repo = self._repo(name, write=True)
        self._commit(repo, revision)
        self._json(
            {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(LFS) else "regular",
                        "shouldIgnore": False,
                        "oid": None,
                    }
                    for file in json.loads(body)["files"]
                ]
            }
        )

    def _batch(self, body: bytes, name: str) -> None:
        self._repo(name, write=True)
        objects = []
        for entry in json.loads(body)["objects"]:
            known = {"oid": entry["oid"], "size": entry["size"]}
            if entry["oid"] not in self.hub.blobs:
                known["actions"] = {
                    "upload": {"href": f"{self.hub.address}/upload/{entry['oid']}"},
                    "verify": {"href": f"{self.hub.address}/verify"},
                }
            objects.append(known)
        self._json({"transfer": "basic", "objects": objects})

    def _upload(self, body: bytes, sha256: str) -> None:
        if hashlib.sha256(body).hexdigest() != sha256:
            raise _Refusal(400)
        self.hub.blobs[sha256] = body
        self.answer(200)

    def _verify(self, body: bytes) -> None:
        if json.loads(body)["oid"] not in self.hub.blobs:
            raise _Refusal(404)
        self._json({})

    def _validate(self, body: bytes) -> None:
        import yaml

        text = json.loads(body)["content"]
        front = text.split("---\n")[1]
        valid = isinstance(yaml.safe_load(front), dict)
        self._json({"errors": [] if valid else [{"message": "no dict"}], "warnings": []})

    def _add_commit(self, body: bytes, name: str, revision: str) -> None:
        repo = self._repo(name, write=True)
        self._commit(repo, revision)
        files, summary = {}, ""
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                summary = value["summary"]
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
        number = repo.commit(files, revision, summary)
        self._json(
            {
                "commitUrl": f"{self.hub.address}/{name}/commit/{number}",
                "commitOid": number,
                "pullRequestUrl": None,
            }
        )


def git_sha1(data: bytes) -> str:
    """Returns the name that Git gives a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
