"""A stand-in for the Hub's upload interface, as huggingface_hub speaks to it, in one process.

It keeps repositories, branches, regular files and large ones (git LFS) in memory, checks tokens
and digests, and can be told to fail.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

LARGE = 1_000_000
"""Files of at least so many bytes go through LFS."""


@dataclass
class Repository:
    private: bool
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    commits: list[dict[str, Any]] = field(default_factory=list)


class Hub:
    """The server, its state and what it was asked.

    Attributes:
        token: The one token that may write.
        repositories: By id.
        large: Content of LFS files by SHA-256.
        requests: ``(method, path, has the token)`` in order.
        failures: Kind of request to the status it is answered with.
        created: What requests for a new repository asked for.
    """

    def __init__(self, token: str) -> None:
        self.token = token
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, bool]] = []
        self.failures: dict[str, int] = {}
        self.created: list[dict[str, Any]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = unquote(urlsplit(self.path).path)
                authorized = self.headers.get("Authorization") == f"Bearer {hub.token}"
                hub.requests.append((self.command, path, "Authorization" in self.headers))
                status, answer = hub.answer(self.command, path, body, authorized)
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = _serve  # noqa: N815 (http.server's names)

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def answer(
        self, method: str, path: str, body: bytes, authorized: bool
    ) -> tuple[int, dict[str, Any] | list[Any]]:
        repo, revision = r"(?P<repo>[\w.-]+/[\w.-]+)", r"(?P<revision>[^/]+)"
        routes: dict[str, tuple[str, Callable[..., tuple[int, Any]]]] = {
            "create": (r"POST /api/repos/create", self._create),
            "yaml": (r"POST /api/validate-yaml", self._validate),
            "branch": (rf"POST /api/models/{repo}/branch/{revision}", self._branch),
            "preupload": (rf"POST /api/models/{repo}/preupload/{revision}", self._preupload),
            "batch": (rf"POST /{repo}\.git/info/lfs/objects/batch", self._batch),
            "put": (r"PUT /storage/(?P<oid>[0-9a-f]{64})", self._put),
            "verify": (r"POST /verify", lambda body: (200, {})),
            "commit": (rf"POST /api/models/{repo}/commit/{revision}", self._commit),
            "tree": (rf"GET /api/models/{repo}/tree/{revision}", self._tree),
            "info": (rf"GET /api/models/{repo}(/revision/{revision})?", self._info),
        }
        for kind, (pattern, action) in routes.items():
            if match := re.fullmatch(pattern, f"{method} {path}"):
                if kind in self.failures:
                    return self.failures[kind], {"error": f"told to fail {kind}"}
                if kind != "put" and not authorized:
                    return 401, {"error": "Invalid credentials"}
                return action(body, **match.groupdict())
        return 404, {"error": f"no route {method} {path}"}

    def _create(self, body: bytes) -> tuple[int, Any]:
        asked = json.loads(body)
        self.created.append(asked)
        name = f"{asked['organization']}/{asked['name']}"
        answer = {"url": f"{self.url}/{name}"}
        if name in self.repositories:
            return 409, answer
        self.repositories[name] = Repository(asked.get("visibility") == "private")
        return 200, answer

    def _validate(self, body: bytes) -> tuple[int, Any]:
        content = json.loads(body)["content"]
        front = content.split("---\n")[1]
        return (200, {}) if isinstance(yaml.safe_load(front), dict) else (400, {"errors": []})

    def _branch(self, body: bytes, repo: str, revision: str) -> tuple[int, Any]:
        branches = self.repositories[repo].branches
        if revision in branches:
            return 409, {}
        branches[revision] = dict(branches["main"])
        return 201, {}

    def _preupload(self, body: bytes, repo: str, revision: str) -> tuple[int, Any]:
        known = self.repositories[repo].branches[revision]
        return 200, {
            "files": [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["size"] >= LARGE else "regular",
                    "shouldIgnore": False,
                    "oid": _oid(known.get(file["path"])),
                }
                for file in json.loads(body)["files"]
            ]
        }

    def _batch(self, body: bytes, repo: str) -> tuple[int, Any]:
        objects = []
        for item in json.loads(body)["objects"]:
            answer = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.large:
                answer["actions"] = {
                    "upload": {"href": f"{self.url}/storage/{item['oid']}?signature=secret"},
                    "verify": {"href": f"{self.url}/verify"},
                }
            objects.append(answer)
        return 200, {"transfer": "basic", "objects": objects}

    def _put(self, body: bytes, oid: str) -> tuple[int, Any]:
        if hashlib.sha256(body).hexdigest() != oid:
            return 400, {"error": "digest differs"}
        self.large[oid] = body
        return 200, {}

    def _commit(self, body: bytes, repo: str, revision: str) -> tuple[int, Any]:
        lines = [json.loads(line) for line in body.splitlines()]
        files = self.repositories[repo].branches[revision]
        for line in lines[1:]:
            path = line["value"]["path"]
            if line["key"] == "file":
                files[path] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                files[path] = self.large[line["value"]["oid"]]
            else:
                del files[path]
        commit = {"revision": revision, **lines[0]["value"], "files": len(lines) - 1}
        self.repositories[repo].commits.append(commit)
        oid = f"{len(self.repositories[repo].commits):040x}"
        return 200, {"commitOid": oid, "commitUrl": f"{self.url}/{repo}/commit/{oid}"}

    def _tree(self, body: bytes, repo: str, revision: str) -> tuple[int, Any]:
        files = self.repositories[repo].branches[revision]
        return 200, [
            {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
            for path, content in files.items()
        ]

    def _info(self, body: bytes, repo: str, revision: str | None) -> tuple[int, Any]:
        if repo not in self.repositories:
            return 404, {"error": "Repository not found"}
        return 200, {"id": repo, "private": self.repositories[repo].private, "sha": "0" * 40}


def _oid(content: bytes | None) -> str | None:
    """As the Hub states it: SHA-256 of large files, git's own SHA-1 of regular ones."""
    if content is None:
        return None
    if len(content) >= LARGE:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
