"""A stand-in for the Hub's download interface: one repository, which can be told to fail."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PAGE = "application/json"


class DownloadHub:
    """Serves the files of a folder as a commit of a repository, as huggingface_hub asks for them.

    Args:
        folder: The repository's files.
        commit: The one commit that it has.

    Attributes:
        sent: Names of the files that it sent, whole or in part.
        starts: First byte of each of these answers.
        trouble: What happens to the next requests of file contents, one entry each: a status,
            ``"cut"`` (half of what was asked, then the connection ends) or ``"hang"`` (nothing
            for ten seconds).
        always: The same for every request of a file, by its name.
        asked: Path of every request.
        branch: Another name of the commit.
        missing: Whether there is no such repository at all.
    """

    def __init__(self, folder: Path, commit: str) -> None:
        self._commit = commit
        self._files = {
            file.relative_to(folder).as_posix(): file.read_bytes()
            for file in folder.rglob("*")
            if file.is_file()
        }
        self.sent: list[str] = []
        self.starts: list[int] = []
        self.trouble: deque[int | str] = deque()
        self.always: dict[str, int | str] = {}
        self.asked: list[str] = []
        self.branch = ""
        self.missing = False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> DownloadHub:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server; a second call does nothing."""
        self._server.shutdown()
        self._server.server_close()

    def use(self, monkeypatch: Any, cache: Path) -> None:
        """Make the Hub client of this process ask this server, with an empty cache."""
        import huggingface_hub.constants as constants

        address = f"{self.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        settings = {
            "ENDPOINT": self.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": address,
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_CACHE": str(cache),
        }
        for name, value in settings.items():
            monkeypatch.setattr(constants, name, value)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                hub.asked.append(path)
                name = path.partition(f"/resolve/{hub._commit}/")[2]
                known = (f"/revision/{hub._commit}", f"/revision/{hub.branch or hub._commit}")
                if hub.missing:
                    self._fail("RepoNotFound")
                elif "/revision/" in path and not path.endswith(known):
                    self._fail("RevisionNotFound")
                elif path.endswith(f"/tree/{hub._commit}"):
                    self._answer(json.dumps(hub.tree()).encode(), PAGE)
                elif path.endswith(known):
                    self._answer(json.dumps(hub.info()).encode(), PAGE)
                elif name not in hub._files:
                    self.send_error(404)
                elif self.command == "HEAD":
                    self._answer(hub._files[name], "application/octet-stream")
                else:
                    self._send(name)

            do_HEAD = do_GET  # noqa: N815 (http.server's name)

            def _fail(self, code: str) -> None:
                self.send_response(404)
                self.send_header("X-Error-Code", code)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def _send(self, name: str) -> None:
                trouble = hub.trouble.popleft() if hub.trouble else hub.always.get(name)
                if isinstance(trouble, int):
                    self.send_error(trouble)
                elif trouble == "hang":
                    threading.Event().wait(10)
                else:
                    hub.sent.append(name)
                    hub.starts.append(self._start())
                    self._answer(hub._files[name], "application/octet-stream", trouble == "cut")

            def _answer(self, content: bytes, kind: str, cut: bool = False) -> None:
                whole, start, tag = len(content), self._start(), hub.oid(content)
                content = content[start:]
                self.send_response(206 if start else 200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
                self.send_header("ETag", f'"{tag}"')
                self.send_header("X-Repo-Commit", hub._commit)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content[: len(content) // 2] if cut else content)

            def _start(self) -> int:
                asked = self.headers.get("Range", "")
                return int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def tree(self) -> list[dict[str, Any]]:
        """The commit's files, as the Hub lists them."""
        return [
            {"type": "file", "path": name, "size": len(content), "oid": self.oid(content)}
            for name, content in self._files.items()
        ]

    def info(self) -> dict[str, Any]:
        """The commit, as the Hub describes it."""
        siblings = [{"rfilename": name} for name in self._files]
        return {"id": "someone/model", "sha": self._commit, "siblings": siblings}

    @staticmethod
    def oid(content: bytes) -> str:
        """An identity of a file's content."""
        return hashlib.sha1(content).hexdigest()
