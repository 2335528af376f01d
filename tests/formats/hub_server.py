"""A small hub on 127.0.0.1: the part of Hugging Face's HTTP interface that models need."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_test"
LFS = (".safetensors", ".onnx")  # suffixes of files that are uploaded apart


class Hub(ThreadingHTTPServer):
    """Repositories in memory: every commit is a mapping of paths to content."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}  # repository, commit
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def put(self, repo: str, files: dict[str, bytes]) -> str:
        """Add a commit with exactly these files and return it."""
        history = self.commits.setdefault(repo, {})
        commit = hashlib.sha1(f"{repo} {len(history)}".encode()).hexdigest()
        history[commit] = files
        return commit

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes] | None:
        history = self.commits.get(repo, {})
        return history.get(self.commit(repo) if revision == "main" else revision)

    def commit(self, repo: str) -> str:
        return list(self.commits[repo])[-1]


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""

    def _answer(self, value: object, status: int = 200, **headers: str) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _missing(self, code: str) -> None:
        self._answer({"error": code}, 404, X_Error_Code=code, X_Error_Message=code)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server.asked.append(path)
        parts = path.split("/")
        if parts[:2] == ["api", "models"] and len(parts) >= 6:
            return self._about("/".join(parts[2:4]), parts[4], parts[5])
        if len(parts) > 4 and parts[2] == "resolve":
            return self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        return self._missing("EntryNotFound")

    do_HEAD = do_GET

    def _about(self, repo: str, what: str, revision: str) -> None:
        if repo not in self.server.commits:
            return self._missing("RepoNotFound")
        files = self.server.files(repo, revision)
        if files is None:
            return self._missing("RevisionNotFound")
        commit = self.server.commit(repo) if revision == "main" else revision
        if what == "tree":
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                for name, content in files.items()
            ]
            return self._answer(tree)
        siblings = [{"rfilename": name} for name in files]
        return self._answer({"id": repo, "modelId": repo, "sha": commit, "siblings": siblings})

    def _file(self, repo: str, commit: str, name: str) -> None:
        content = (self.server.files(repo, commit) or {}).get(name)
        if content is None:
            return self._missing("EntryNotFound")
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        return self._answer(content, ETag=tag, X_Repo_Commit=commit)

    def do_PUT(self) -> None:
        content = self._body()
        self.server.blobs[hashlib.sha256(content).hexdigest()] = content
        self._answer({})

    def do_POST(self) -> None:
        body, path = self._body(), urlsplit(self.path).path.strip("/")
        self.server.asked.append(path)
        if path == "api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer({"error": "no"}, 401)
        if path == "api/repos/create":
            value = json.loads(body)
            repo = "/".join(filter(None, (value.get("organization"), value["name"])))
            if repo not in self.server.commits:
                self.server.put(repo, {".gitattributes": b""})
            return self._answer({"url": f"{self.server.address}/{repo}", "name": repo})
        parts = path.split("/")
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._batch(json.loads(body))
        if parts[4] == "preupload":
            return self._preupload(json.loads(body))
        return self._commit("/".join(parts[2:4]), body)

    def _preupload(self, value: Any) -> None:
        files = [
            {
                "path": one["path"],
                "uploadMode": "lfs" if one["path"].endswith(LFS) else "regular",
                "shouldIgnore": False,
            }
            for one in value["files"]
        ]
        self._answer({"files": files})

    def _batch(self, value: Any) -> None:
        objects = [
            {
                "oid": one["oid"],
                "size": one["size"],
                "actions": {"upload": {"href": f"{self.server.address}/lfs/{one['oid']}"}},
            }
            for one in value["objects"]
        ]
        self._answer({"transfer": "basic", "objects": objects})

    def _commit(self, repo: str, body: bytes) -> None:
        files = dict(self.server.files(repo) or {})
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
            elif item["key"] == "deletedFile":
                del files[value["path"]]
        commit = self.server.put(repo, files)
        url = f"{self.server.address}/{repo}/commit/{commit}"
        self._answer({"success": True, "commitOid": commit, "commitUrl": url})


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Yield a hub that answers on this machine."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
