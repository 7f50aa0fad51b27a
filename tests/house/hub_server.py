"""A small stand-in for the Hub on this machine: what uploading and downloading a model needs, nothing else.

Clients find it through `HF_ENDPOINT`, which huggingface_hub reads when it is imported: so they run in processes of
their own, with [`HubServer.environment`]. Xet, a binary protocol, is switched off there; large files then go through
Git LFS.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LFS_JSON = "application/vnd.git-lfs+json"
REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"


@dataclass
class Repository:
    """Files of a repository and what is known about it.

    Attributes:
        private: whether only who has the token may see it.
        gated: whether nobody may have its files, who may all see it.
        files: the newest ones, by name.
        lfs: names of those that are kept as large ones.
        commits: number of them.
        earlier: files of each commit that was asked for or replaced.
        damaged: name of a file -> what is served in its place, as by a server that mixes something up.
        cut: name of a file -> what its next calls meet: the connection ends after so many bytes, or (0) an error.
    """

    private: bool = False
    gated: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    lfs: set[str] = field(default_factory=set)
    commits: int = 0
    earlier: dict[str, dict[str, bytes]] = field(default_factory=dict)
    damaged: dict[str, bytes] = field(default_factory=dict)
    cut: dict[str, list[int]] = field(default_factory=dict)

    @property
    def sha(self) -> str:
        """The newest commit, which can be asked for from now on."""
        content = "".join(f"{name}{hashlib.sha1(data).hexdigest()}" for name, data in sorted(self.files.items()))
        sha = hashlib.sha1(f"{self.commits}{content}".encode()).hexdigest()
        self.earlier.setdefault(sha, dict(self.files))
        return sha

    def at(self, revision: str) -> tuple[str, dict[str, bytes] | None]:
        """A commit and its files, which are `None` if there is no such commit."""
        sha = self.sha if revision == "main" else revision
        return sha, self.earlier.get(sha)


def git_hash(data: bytes) -> str:
    """What Git calls a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class HubServer:
    """The stand-in. Use it as a context manager.

    Attributes:
        repositories: name -> content.
        requests: `"METHOD path"` of every request, in order.
        ranges: what parts of files were asked for, in order.
    """

    TOKEN = "hf_stand_in"

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.ranges: list[str] = []
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def environment(self, home: Path) -> dict[str, str]:
        """Variables for a client whose cache is in `home`; an empty `home` is a user who has never downloaded."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": self.TOKEN,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, *arguments: Any) -> None:
        """Silent: the test that fails shows what its client printed."""

    # --- answers ---

    def _send(self, status: int, body: bytes = b"", content_type: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", content_type)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, content: Any, status: int = HTTPStatus.OK, content_type: str = "application/json") -> None:
        self._send(status, json.dumps(content).encode(), content_type)

    def _missing(self, code: str) -> None:
        self._send(HTTPStatus.NOT_FOUND, b'{"error":"not found"}', X_Error_Code=code, X_Error_Message=code)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailing headers
        return b"".join(chunks)

    # --- routes ---

    def _route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        body = self._body()
        method = "GET" if self.command == "HEAD" else self.command
        routes: tuple[tuple[str, str, Any], ...] = (
            ("POST", r"/api/repos/create", self._create),
            ("POST", r"/api/validate-yaml", self._validate),
            ("POST", rf"/api/models/{REPO}/preupload/[^/]+", self._preupload),
            ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", self._lfs_batch),
            ("PUT", r"/lfs-storage/(?P<oid>[0-9a-f]{64})", self._lfs_put),
            ("POST", rf"/api/models/{REPO}/commit/[^/]+", self._commit),
            ("GET", rf"/api/models/{REPO}/tree/[^/]+", self._tree),
            ("GET", rf"/api/models/{REPO}(/revision/(?P<revision>[^/]+))?", self._info),
            ("GET", rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<name>.+)", self._resolve),
        )
        for expected, pattern, answer in routes:
            match = re.fullmatch(pattern, path)
            if match and method == expected:
                groups = match.groupdict()
                with self.hub.lock:
                    repository = self.hub.repositories.get(groups.get("repo", ""))
                    if "repo" in groups and (repository is None or self._refused(repository)):
                        self._missing("RepoNotFound")
                    else:
                        answer(body=body, repository=repository, **groups)
                return
        self._missing("EntryNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = _route

    def _refused(self, repository: Repository) -> bool:
        return repository.private and self.headers.get("Authorization") != f"Bearer {self.hub.TOKEN}"

    def _create(self, body: bytes, **_: Any) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
        answer = {"url": f"{self.hub.url}/{name}", "id": name, "name": name}
        if name in self.hub.repositories:
            self._json({**answer, "error": "You already created this model repo"}, HTTPStatus.CONFLICT)
            return
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        self.hub.repositories[name] = Repository(private=private)
        self._json(answer)

    def _validate(self, **_: Any) -> None:
        self._json({"errors": [], "warnings": []})

    def _preupload(self, body: bytes, **_: Any) -> None:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        self._json({"files": files})

    def _lfs_batch(self, body: bytes, **_: Any) -> None:
        objects = []
        for item in json.loads(body)["objects"]:
            answer: dict[str, Any] = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.objects:
                answer["actions"] = {"upload": {"href": f"{self.hub.url}/lfs-storage/{item['oid']}"}}
            objects.append(answer)
        self._json({"transfer": "basic", "objects": objects}, content_type=LFS_JSON)

    def _lfs_put(self, body: bytes, oid: str, **_: Any) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            self._json({"error": "content does not match its hash"}, HTTPStatus.BAD_REQUEST)
            return
        self.hub.objects[oid] = body
        self._send(HTTPStatus.OK)

    def _commit(self, body: bytes, repo: str, repository: Repository, **_: Any) -> None:
        _ = repository.sha  # which keeps what is replaced
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                repository.files[value["path"]] = self.hub.objects[value["oid"]]
                repository.lfs.add(value["path"])
            elif entry["key"] == "deletedFile":
                repository.files.pop(value["path"], None)
        repository.commits += 1
        url = f"{self.hub.url}/{repo}/commit/{repository.sha}"
        self._json({"success": True, "commitOid": repository.sha, "commitUrl": url, "hookOutput": ""})

    def _info(self, repo: str, repository: Repository, revision: str | None = None, **_: Any) -> None:
        sha, files = repository.at(revision or "main")
        if files is None:
            self._missing("RevisionNotFound")
            return
        siblings: list[dict[str, Any]] = []
        for name, data in sorted(files.items()):
            siblings.append({"rfilename": name, "size": len(data), "blobId": git_hash(data)})
            if name in repository.lfs:
                siblings[-1]["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 1}
        self._json(
            {
                "id": repo,
                "modelId": repo,
                "sha": sha,
                "private": repository.private,
                "gated": "manual" if repository.gated else False,
                "tags": [],
                "siblings": siblings,
            }
        )

    def _tree(self, repository: Repository, **_: Any) -> None:
        self._json(
            [
                {"type": "file", "path": name, "size": len(data), "oid": git_hash(data)}
                for name, data in sorted(repository.files.items())
            ]
        )

    def _resolve(self, name: str, repository: Repository, revision: str, **_: Any) -> None:
        sha, files = repository.at(revision)
        if files is None:
            self._missing("RevisionNotFound")
            return
        if repository.gated:
            self._send(HTTPStatus.FORBIDDEN, b'{"error":"gated"}', X_Error_Code="GatedRepo", X_Error_Message="gated")
            return
        data = files.get(name)
        headers = {"X_Repo_Commit": sha, "Accept_Ranges": "bytes"}
        if data is None:
            self._send(HTTPStatus.NOT_FOUND, b"", X_Error_Code="EntryNotFound", **headers)
            return
        headers["ETag"] = f'"{hashlib.sha256(data).hexdigest() if name in repository.lfs else git_hash(data)}"'
        data = repository.damaged.get(name, data)
        if self.command == "GET" and repository.cut.get(name):
            cut = repository.cut[name].pop(0)
            if cut == 0:
                self._send(HTTPStatus.INTERNAL_SERVER_ERROR, b'{"error":"down"}')
                return
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[:cut])
            self.close_connection = True
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is not None:
            self.hub.ranges.append(asked[0])
        if asked is None:
            headers["Content_Length"] = str(len(data))
            self._send(HTTPStatus.OK, data, "application/octet-stream", **headers)
            return
        first, last = int(asked[1]), int(asked[2] or len(data) - 1)
        part = data[first : last + 1]
        headers["Content_Range"] = f"bytes {first}-{first + len(part) - 1}/{len(data)}"
        headers["Content_Length"] = str(len(part))
        self._send(HTTPStatus.PARTIAL_CONTENT, part, "application/octet-stream", **headers)
