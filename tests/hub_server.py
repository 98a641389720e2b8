"""A hub on loopback for tests: what huggingface_hub's client asks of one, served from a folder of
ORG/REPO/BRANCH/files.
"""

import contextlib
import functools
import hashlib
import json
import pathlib
import re
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LFS_FROM = 1024  # bytes: larger files have their SHA-256 as ETag, as Git LFS gives it, smaller ones that of a Git blob


class Hub:
    """The state of a running hub: what was asked of it, and what tests make it do."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.requests = []  # "METHOD path" of each
        self.ranges = []  # where each answer began that was asked for from the middle of a file
        self.cut = 0  # how many contents of large files still break off half way
        self.gated = set()  # repositories that nobody may read
        self.status = self.page = None  # of every answer, where set: a hub that is down, a page that is no hub's

    def branch(self, repo, revision):
        """(folder, commit) of a branch, or of the commit itself; None where the repository has no such revision."""
        for folder in sorted(path for path in (self.folder / repo).iterdir() if path.is_dir()):
            commit = self.commit(folder)
            if revision in (folder.name, commit):
                return folder, commit
        return None

    @staticmethod
    def commit(folder):
        """40 hexadecimal digits that follow from the names and contents of a folder's files."""
        digest = hashlib.sha1()
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest.update(path.relative_to(folder).as_posix().encode() + hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def downloads(self):
        """The paths of the files whose content was asked for."""
        return [line.removeprefix("GET ") for line in self.requests if line.startswith("GET ") and "/resolve/" in line]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub, *arguments):
        self.hub = hub
        super().__init__(*arguments)

    def log_message(self, *arguments):
        """Keeps the test's output clean."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = urllib.parse.urlsplit(self.path).path
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.status:
            return self.refuse(self.hub.status, "")
        if self.hub.page:
            return self.send(self.hub.page, {"Content-Type": "text/html"})
        listing = re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/revision/([^/]+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if not listing and not file:
            return self.refuse(404, "")
        repo, revision, *name = (listing or file).groups()
        if not (self.hub.folder / repo).is_dir():
            return self.refuse(401, "RepoNotFound")
        found = self.hub.branch(repo, urllib.parse.unquote(revision or "main"))
        if not found:
            return self.refuse(404, "RevisionNotFound")
        if listing:
            return self.list(repo, *found)
        if repo in self.hub.gated:
            return self.refuse(403, "GatedRepo")
        return self.serve(*found, urllib.parse.unquote(name[0]))

    def list(self, repo, folder, commit):
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        value = {
            "id": repo,
            "modelId": repo,
            "sha": commit,
            "siblings": [{"rfilename": name} for name in names],
            "tags": [],
        }
        self.send(json.dumps(value).encode(), {"Content-Type": "application/json"})

    def serve(self, folder, commit, name):
        path = folder / name
        if not path.is_file():
            return self.refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
        content = path.read_bytes()
        large = len(content) >= LFS_FROM
        etag = (
            hashlib.sha256(content).hexdigest()
            if large
            else hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        )
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if large:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(content))}
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if not start:
            return self.send(content, headers)
        first = int(start[1])
        self.hub.ranges.append(first)
        headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        return self.send(content[first:], headers, status=206)

    def send(self, content, headers, status=200):
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.cut and len(content) >= LFS_FROM:
            self.hub.cut -= 1
            content, self.close_connection = content[: len(content) // 2], True
        self.wfile.write(content)

    def refuse(self, status, code, headers=None):
        self.send(b"", ({"X-Error-Code": code} if code else {}) | (headers or {}), status=status)


@contextlib.contextmanager
def serving(folder):
    """Yields (Hub, its address for HF_ENDPOINT) while a thread serves the folder."""
    hub = Hub(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, hub))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
