"""A server that speaks the few calls by which the hub's client and `datasets` read data set repositories."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMITS = ("a" * 40, "b" * 40)


class DataHub:
    """Repositories by id: the files of each commit, oldest first; `gated` ones show themselves and give no file."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.gated: set[str] = set()
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                hub.answer(self, body=False)

            def do_GET(self):
                hub.answer(self, body=True)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def put(self, name: str, files: dict[str, bytes]) -> str:
        """A new commit of a repository; its hash."""
        commits = self.repos.setdefault(name, {})
        commit = COMMITS[len(commits)]
        commits[commit] = files
        return commit

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        api = request.path.startswith("/api/")
        path = unquote(urlsplit(request.path).path).strip("/").split("/")
        self.asked.append(f"{request.command} {'/'.join(path)}")
        name, rest = "/".join(path[1 + api : 3 + api]), path[3 + api :]
        if name not in self.repos:
            return self.send(request, body, 404, error="RepoNotFound")
        what, revision = rest[0] if rest else "", rest[1] if len(rest) > 1 else "main"
        commits = self.repos[name]
        commit = list(commits)[-1] if revision == "main" else revision
        if commit not in commits:
            return self.send(request, body, 404, error="RevisionNotFound")
        files, file = commits[commit], "/".join(rest[2:])
        if not api and name in self.gated:
            return self.send(request, body, 403, error="GatedRepo", commit=commit)
        if not api:
            found = files.get(file)
            return self.send(request, body, 200 if found is not None else 404, found or b"", commit=commit,
                             error="" if found is not None else "EntryNotFound")  # fmt: skip
        answer: object = {"id": name, "sha": commit, "siblings": []}
        if what == "tree":
            answer = tree(files, file, "recursive=true" in request.path.lower())
        return self.send(request, body, 200, json.dumps(answer).encode())

    def send(self, request, body, code, data=b"", error="", commit=""):
        request.send_response(code)
        request.send_header("Content-Length", str(len(data)))
        if error:
            request.send_header("X-Error-Code", error)
        if commit:
            request.send_header("X-Repo-Commit", commit)
            request.send_header("ETag", f'"{etag(data)}"')
        request.end_headers()
        if body:
            request.wfile.write(data)


def tree(files: dict[str, bytes], under: str, recursive: bool) -> list[dict]:
    """The files and folders of a folder."""
    folders = {"/".join(path.split("/")[:i]) for path in files for i in range(1, path.count("/") + 1)}
    found = [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)]
    found += [{"type": "file", "path": p, "oid": etag(data), "size": len(data)} for p, data in files.items()]
    inside = [e for e in found if not under or str(e["path"]).startswith(f"{under}/")]
    return [e for e in inside if recursive or "/" not in str(e["path"]).removeprefix(f"{under}/")]


def etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
