"""A Hub on loopback: models and Spaces in memory, with what pushing to them and loading from them needs."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


Files = dict[str, bytes]
Answer = tuple[int, dict[str, str], bytes]


class Refusal(Exception):
    """An HTTP status, and the word by which clients tell what is missing."""

    def __init__(self, status: int, code: str = "", commit: str = ""):
        super().__init__(code)
        self.answer = status, {"X-Error-Code": code, "X-Repo-Commit": commit}, b"{}"


class Repository:
    """Commits with all their files; branches and tags are names of commits."""

    def __init__(self, name: str, private: bool = False):
        self.name, self.private = name, private
        self.commits: dict[str, Files] = {}
        self.refs: dict[str, str] = {}
        self.add("main", {})

    def add(self, branch: str, files: Files) -> str:
        content = [f"{len(self.commits)}\n", *(f"{path} {file_hash(path, files[path])}\n" for path in sorted(files))]
        commit = hashlib.sha1("".join(content).encode()).hexdigest()
        self.commits[commit] = files
        self.refs[branch] = commit
        return commit

    def find(self, revision: str) -> tuple[str, Files]:
        commit = self.refs.get(revision, revision)
        if commit not in self.commits:
            raise Refusal(404, "RevisionNotFound")
        return commit, self.commits[commit]


class Hub(ThreadingHTTPServer):
    """`url` is for HF_ENDPOINT; `requests` holds method and path of everything that was asked for.

    `rejected` are tokens with the status that answers them, `rejected_writes` those that may read. Requests whose path
    contains `lost` are read to the middle, then the connection breaks; those that contain the path of `failing` are
    answered with its status, and those that contain the path of `strange` with its answer. Those that contain `silent`
    get no answer, and those that contain `trickling` get one that never ends, a byte at a time. With a `pause`, a
    mebibyte of a request is read each so many seconds. `invalid_yaml` is wrong with any README.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests: list[tuple[str, str]] = []
        self.repositories: dict[str, Repository] = {}
        self.large_files: Files = {}
        self.rejected: dict[str, int] = {}
        self.rejected_writes: dict[str, int] = {}
        self.invalid_yaml: str | None = None
        self.lost: str | None = None
        self.failing: tuple[str, int] | None = None
        self.strange: tuple[str, Answer] | None = None
        self.silent: str | None = None
        self.trickling: str | None = None
        self.pause: float | None = None
        self.stopped = threading.Event()
        self.lock = threading.Lock()

    def stop(self):
        self.stopped.set()
        self.shutdown()
        self.server_close()

    def find(self, name: str) -> Repository:
        if name not in self.repositories:
            raise Refusal(404, "RepoNotFound")
        return self.repositories[name]


@contextmanager
def run_hub() -> Iterator[Hub]:
    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield hub
        finally:
            hub.stop()


def is_large(path: str) -> bool:
    return path.endswith(".safetensors")


def file_hash(path: str, content: bytes) -> str:
    """By which clients see whether a file of theirs is this one."""
    if is_large(path):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def as_json(content: dict | list, status: int = 200) -> Answer:
    return status, {"Content-Type": "application/json"}, json.dumps(content).encode()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        """Say nothing: the server keeps its own record."""

    def handle_request(self):
        if self.server.lost and self.server.lost in self.path:
            self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
            self.close_connection = True
            return
        # Read first: what a refusal left unread would pass for the next request of the connection.
        self.body = b"".join(self.read_pieces())
        if self.server.silent and self.server.silent in self.path:
            self.server.stopped.wait()
            self.close_connection = True
            return
        if self.server.trickling and self.server.trickling in self.path:
            self.trickle()
            return
        url = urlsplit(self.path)
        # Split before decoding: a branch may have a slash in its name.
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        if "spaces" in parts[:2]:  # repositories of owners whose names begin so
            place = parts.index("spaces")
            parts[place : place + 2] = [*["models"] * place, f"spaces/{parts[place + 1]}"]
        with self.server.lock:
            self.server.requests.append((self.command, url.path))
            try:
                status, headers, content = self.answer(*parts, **parse_qs(url.query))
            except Refusal as refusal:
                status, headers, content = refusal.answer
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def read_pieces(self) -> Iterator[bytes]:
        left = int(self.headers.get("Content-Length", 0))
        while left:
            self.server.stopped.wait(self.server.pause or 0)
            piece = self.rfile.read(min(left, 2**20))
            yield piece
            left -= len(piece)

    def trickle(self):
        self.send_response(200)
        self.send_header("Content-Length", str(2**40))
        self.end_headers()
        with suppress(ConnectionError):
            while not self.server.stopped.wait(0.05):
                self.wfile.write(b" ")
        self.close_connection = True

    def answer(self, *parts: str, **query: list[str]) -> Answer:
        if self.server.failing and self.server.failing[0] in self.path:
            raise Refusal(self.server.failing[1])
        if self.server.strange and self.server.strange[0] in self.path:
            return self.server.strange[1]
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        rejected = self.server.rejected | (self.server.rejected_writes if self.command == "POST" else {})
        if token in rejected:
            raise Refusal(rejected[token])
        if self.command == "POST" and not self.headers.get("Authorization", "").startswith("Bearer "):
            raise Refusal(401)
        match "GET" if self.command == "HEAD" else self.command, *parts:
            case "GET", "api", "whoami-v2":
                return as_json({"type": "user", "name": "me", "orgs": []})
            case "POST", "api", "validate-yaml":
                errors = [{"message": self.server.invalid_yaml}] if self.server.invalid_yaml else []
                return as_json({"warnings": [], "errors": errors}, 400 if errors else 200)
            case "POST", "api", "repos", "create":
                return self.create_repository(**json.loads(self.body))
            case "POST", owner, name, "info", "lfs", "objects", "batch":
                self.server.find(f"{owner}/{name.removesuffix('.git')}")
                return as_json({"objects": [self.plan_upload(**file) for file in json.loads(self.body)["objects"]]})
            case "PUT", "large", oid if oid == hashlib.sha256(self.body).hexdigest():
                self.server.large_files[oid] = self.body
                return as_json({})
            case "GET", owner, name, "resolve", revision, *path:
                return self.read_file(self.server.find(f"{owner}/{name}"), revision, "/".join(path))
            case method, "api", "models", owner, name, *rest:
                return self.answer_about(self.server.find(f"{owner}/{name}"), method, rest, query)
        raise Refusal(501)

    def answer_about(self, repository: Repository, method: str, parts: list[str], query: dict) -> Answer:
        match method, *parts:
            case "GET", *revision if not revision or revision[0] == "revision":
                commit, files = repository.find(revision[1] if revision else "main")
                siblings = [{"rfilename": path} for path in sorted(files)]
                return as_json({"id": repository.name, "sha": commit, "private": False, "siblings": siblings})
            case "GET", "tree", revision, *folder:
                recursive = query.get("recursive", [""])[0].lower() == "true"
                return self.list_files(repository, revision, "".join(f"{part}/" for part in folder), recursive)
            case "POST", "branch", name:
                return self.add_ref(repository, name, json.loads(self.body).get("startingPoint", "main"))
            case "POST", "tag", revision:
                return self.add_ref(repository, json.loads(self.body)["tag"], revision)
            case "POST", "preupload", revision:
                return self.plan_commit(repository, revision)
            case "POST", "commit", branch if "create_pr" not in query:
                return self.add_commit(repository, branch)
        raise Refusal(501)

    def create_repository(self, name: str, organization: str = "me", **options) -> Answer:
        name = f"{'spaces/' if options.get('type') == 'space' else ''}{organization}/{name}"
        is_new = name not in self.server.repositories
        if is_new:
            private = options.get("private") or options.get("visibility") == "private"
            self.server.repositories[name] = Repository(name, bool(private))
        return as_json({"url": f"{self.server.url}/{name}"}, 200 if is_new else 409)

    def plan_upload(self, oid: str, size: int) -> dict:
        """Where to put a large file; no action if it is here."""
        action = {"upload": {"href": f"{self.server.url}/large/{oid}"}}
        return {"oid": oid, "size": size} | ({} if oid in self.server.large_files else {"actions": action})

    def plan_commit(self, repository: Repository, revision: str) -> Answer:
        """How each file is to be sent, and its hash where there is one of that name."""
        _, known = repository.find(revision)
        files = []
        for path in (file["path"] for file in json.loads(self.body)["files"]):
            file = {"path": path, "uploadMode": "lfs" if is_large(path) else "regular", "shouldIgnore": False}
            files.append(file | ({"oid": file_hash(path, known[path])} if path in known else {}))
        return as_json({"files": files})

    def add_commit(self, repository: Repository, branch: str) -> Answer:
        files = dict(repository.find(branch)[1])
        for line in self.body.splitlines():
            match json.loads(line):
                case {"key": "header", "value": {"parentCommit": parent}} if parent != repository.refs[branch]:
                    raise Refusal(412)
                case {"key": "header"}:
                    pass
                case {"key": "file", "value": {"path": path, "content": content, "encoding": "base64"}}:
                    files[path] = base64.b64decode(content)
                case {"key": "deletedFile", "value": {"path": path}}:
                    del files[path]
                case {"key": "lfsFile", "value": {"path": path, "oid": oid}} if oid in self.server.large_files:
                    files[path] = self.server.large_files[oid]
                case _:
                    raise Refusal(501)
        commit = repository.add(branch, files)
        return as_json({"commitOid": commit, "commitUrl": f"{self.server.url}/{repository.name}/commit/{commit}"})

    def add_ref(self, repository: Repository, name: str, revision: str) -> Answer:
        if name in repository.refs:
            raise Refusal(409)
        repository.refs[name], _ = repository.find(revision)
        return as_json({})

    def list_files(self, repository: Repository, revision: str, folder: str, recursive: bool) -> Answer:
        """Files alone, without entries for the folders between."""
        commit, files = repository.find(revision)
        inside = sorted(path for path in files if path.startswith(folder))
        if not inside:
            raise Refusal(404, "EntryNotFound", commit)
        entries = [
            {"type": "file", "path": path, "size": len(files[path]), "oid": file_hash(path, files[path])}
            for path in inside
            if recursive or "/" not in path.removeprefix(folder)
        ]
        return as_json(entries)

    def read_file(self, repository: Repository, revision: str, path: str) -> Answer:
        commit, files = repository.find(revision)
        if path not in files:
            raise Refusal(404, "EntryNotFound", commit)
        return 200, {"X-Repo-Commit": commit, "ETag": f'"{file_hash(path, files[path])}"'}, files[path]
