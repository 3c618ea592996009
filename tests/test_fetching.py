"""The polite fetcher of chapter 43_fetch against a server on loopback that behaves as badly as it can."""

import gzip
import hashlib
import io
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from llmchain.data import fetching, reading
from llmchain.data.rows import BadInput, Notice

ORIGIN = dict(source="web", package="site", version="", licence="CC0-1.0")


class Handler(BaseHTTPRequestHandler):
    """Each path is a fault; what was asked is kept on the server."""

    protocol_version = "HTTP/1.1"

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        given = {"Content-Type": "text/html; charset=utf-8", "Content-Length": str(len(body))}
        for name, value in (given | {k.replace("_", "-"): v for k, v in headers.items()}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def endless(self, packed: bool) -> None:
        """A body without an end, in chunks."""
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Transfer-Encoding", "chunked")
        if packed:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        piece = gzip.compress(b"0" * 5_000_000) if packed else b"x" * 50_000
        try:
            while True:
                self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        except OSError:
            self.close_connection = True

    def slow(self) -> None:
        """A byte now and then, so that no single read takes long."""
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", "150")
        self.end_headers()
        try:
            for _ in range(150):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.02)
        except OSError:
            self.close_connection = True

    def drip(self, seconds: float) -> None:
        """Headers that go on for so long, a byte now and then, and then an answer."""
        try:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Nothing: ")
            for _ in range(int(seconds / 0.02)):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.02)
            self.wfile.write(b"\r\nContent-Type: text/html\r\nContent-Length: 9\r\n\r\n<p>late</")
        except OSError:
            self.server.hung_up.set()
        self.close_connection = True

    def do_GET(self) -> None:
        server, path = self.server, self.path
        server.asked.append(path)
        server.agents.add(self.headers["User-Agent"])
        n = Counter(server.asked)[path]
        if path == "/robots.txt":
            self.answer(server.robots_status, server.robots.encode())
        elif path.startswith("/busy"):
            self.answer(429, Retry_After="7") if n <= 2 else self.answer(200, b"<p>at last</p>")
        elif path == "/later":
            self.answer(503, Retry_After="86400")
        elif path == "/broken":
            self.answer(500)
        elif path == "/loop":
            self.answer(302, Location="/loop2")
        elif path == "/loop2":
            self.answer(302, Location="/loop")
        elif path.startswith("/chain"):
            self.answer(301, Location=f"/chain{int(path[6:]) + 1}")
        elif path == "/away":
            self.answer(302, Location="file:///etc/passwd")
        elif path == "/inside":
            self.answer(302, Location="http://169.254.169.254/secret")
        elif path == "/moved":
            self.answer(308, Location="/page#part")
        elif path == "/into":
            self.answer(302, Location="/private/x")
        elif path == "/huge":
            self.endless(packed=False)
        elif path == "/bomb":
            self.endless(packed=True)
        elif path == "/slow":
            self.slow()
        elif path == "/drip":
            self.drip(30)
        elif path == "/late":
            self.drip(0.2)
        elif path.startswith("/step"):
            time.sleep(0.2)  # each step is quick enough by itself
            self.answer(302, Location=f"/step{int(path[5:]) + 1}")
        elif path == "/charset":
            self.answer(
                200, "<p>naïve 你好</p>".encode(), Content_Type="text/html; charset=latin-1"
            )
        elif path == "/latin":
            self.answer(
                200,
                "<meta charset=iso-8859-1><p>caf\xe9</p>".encode("latin-1"),
                Content_Type="text/html",
            )
        elif path == "/noise":
            self.answer(200, b"\x80\x81\xfe", Content_Type="text/html")
        elif path == "/picture":
            self.answer(200, b"\x89PNG", Content_Type="image/png")
        elif path == "/packed":
            self.answer(200, gzip.compress(b"<p>packed</p>"), Content_Encoding="gzip")
        elif path == "/cut":
            self.answer(200, gzip.compress(b"<p>packed</p>" * 99)[:-9], Content_Encoding="gzip")
        elif path == "/brotli":
            self.answer(200, b"??", Content_Encoding="br")
        elif path == "/short":
            self.answer(200, b"<p>cut", Content_Length="5000")
            self.close_connection = True
        elif path == "/hangup":
            self.close_connection = True
        elif path == "/gone":
            self.answer(404)
        else:
            self.answer(200, f"<html lang='en'><p>page {path}</p></html>".encode())

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.daemon_threads = True
    found.asked, found.agents, found.hung_up = [], set(), threading.Event()
    found.robots, found.robots_status = "User-agent: *\nDisallow: /private\n", 200
    found.home = f"http://127.0.0.1:{found.server_port}"
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.shutdown()
    found.server_close()
    thread.join()


class Clock:
    """A clock that only sleeping moves; the sleeps are kept."""

    def __init__(self, real: bool = False) -> None:
        self.now, self.slept, self.real = 1_700_000_000.0, [], real

    def time(self) -> float:
        return time.time() if self.real else self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=5, trust_env=False) as found:
        yield found


def fetcher_of(
    client: httpx.Client, folder: Path, clock: Clock, **limits: float
) -> fetching.Fetcher:
    given = fetching.Limits(**({"delay": 1.0, "max_bytes": 100_000} | limits))
    return fetching.Fetcher(client, folder, given, "me@example.org", clock.time, clock.sleep)


@pytest.mark.parametrize(
    ("path", "reason", "times"),
    [
        ("/broken", "status 500", 3),
        ("/later", "asks to wait longer than the limit", 1),
        ("/loop", "redirect loop", 1),
        ("/chain0", "too many redirects", 1),
        ("/away", "not http", 1),
        ("/inside", "redirect to a private address", 1),
        ("/into", "robots.txt forbids", 1),
        ("/private/x", "robots.txt forbids", 0),
        ("/huge", "larger than the limit", 1),
        ("/bomb", "decompression bomb", 1),
        ("/cut", "truncated gzip", 1),
        ("/brotli", "unknown content encoding", 1),
        ("/short", "no answer", 3),
        ("/hangup", "no answer", 3),
        ("/gone", "status 404", 1),
        ("/noise", "not UTF-8", 1),
        ("/picture", "media type not wanted", 1),
    ],
)
def test_each_fault_is_one_line(server, client, tmp_path, path, reason, times) -> None:
    fetcher = fetcher_of(client, tmp_path, Clock(), retries=2)
    addresses = [server.home + p for p in (path, "/page")]
    notice, page = fetching.fetched_documents(addresses, fetcher, ORIGIN)
    assert notice.reason == reason and not notice.kept and notice.package == "site"
    assert str(notice).startswith(server.home + path) and "\n" not in str(notice)
    assert "page /page" in page["html"]  # the run goes on
    assert Counter(server.asked)[path] == times
    assert not any(p.startswith("/private") for p in server.asked)


def test_a_slow_answer_has_a_deadline(server, client, tmp_path) -> None:
    fetcher = fetcher_of(client, tmp_path, Clock(real=True), max_seconds=0.3)
    start = time.time()
    (notice,) = fetching.fetched_documents([server.home + "/slow"], fetcher, ORIGIN)
    assert notice.reason == "slower than the limit" and time.time() - start < 2.5


def test_headers_that_drip_have_the_same_deadline(server, client, tmp_path) -> None:
    fetcher = fetcher_of(client, tmp_path, Clock(real=True), delay=0.0, max_seconds=1.0, retries=3)
    start = time.time()
    addresses = [server.home + p for p in ("/drip", "/late", "/page")]
    notice, late, page = fetching.fetched_documents(addresses, fetcher, ORIGIN)
    assert notice.reason == "slower than the limit" and time.time() - start < 6
    assert server.asked.count("/drip") == 1  # no second time
    assert server.hung_up.wait(2)  # the server is told
    assert late["html"] == "<p>late</" and "page /page" in page["html"]


def test_the_steps_of_a_redirect_share_one_deadline(server, client, tmp_path) -> None:
    limits = dict(delay=0.0, max_seconds=0.5, max_redirects=20)
    fetcher = fetcher_of(client, tmp_path, Clock(), **limits)
    fetcher.rules(server.home)
    start = time.time()
    with pytest.raises(BadInput, match="slower than the limit"):
        fetcher.get(server.home + "/step0")
    assert time.time() - start < 3 and 2 <= len(server.asked) <= 5


def test_a_robots_file_that_drips_means_no(server, client, tmp_path, monkeypatch) -> None:
    answer = Handler.answer

    def drips(self, *given, **more) -> None:
        self.drip(30) if self.path == "/robots.txt" else answer(self, *given, **more)

    monkeypatch.setattr(Handler, "answer", drips)
    fetcher = fetcher_of(client, tmp_path, Clock(), delay=0.0, max_seconds=0.3)
    with pytest.raises(BadInput, match=r"robots\.txt unreachable"):
        fetcher.get(server.home + "/page")
    assert server.asked == ["/robots.txt"]


def test_our_own_pauses_do_not_count(server, client, tmp_path) -> None:
    fetcher = fetcher_of(client, tmp_path, Clock(), max_seconds=2.0)
    fetcher.sleep = lambda seconds: (time.sleep(0.5), fetcher.clock.__self__.sleep(seconds))
    assert fetcher.get(server.home + "/busy").content == b"<p>at last</p>"  # five pauses


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl for a certificate")
@pytest.mark.parametrize("handshake", [True, False])
def test_the_deadline_ends_tls_too(server, tmp_path, handshake) -> None:
    """Headers that drip through TLS, and a server that never answers the greeting of TLS."""
    names = ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "cert"), "-subj", "/CN=x"]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
    subprocess.run(make, check=True, capture_output=True)
    if handshake:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        port = server.server_port
    else:
        silent = socket.create_server(("127.0.0.1", 0))
        port = silent.getsockname()[1]
    with httpx.Client(timeout=30, trust_env=False, verify=False) as client:
        fetcher, start = fetcher_of(client, tmp_path, Clock()), time.time()
        with pytest.raises(BadInput, match="slower than the limit"):
            fetcher.attempt(f"https://127.0.0.1:{port}/drip", fetching.Watch(0.8))
    assert time.time() - start < 6
    assert server.asked == (["/drip"] if handshake else [])


def test_a_huge_body_does_not_enter_memory(server, client, tmp_path) -> None:
    import tracemalloc

    fetcher = fetcher_of(client, tmp_path, Clock())
    fetcher.rules(server.home)
    for path in ("/huge", "/bomb"):
        tracemalloc.start()
        list(fetching.fetched_documents([server.home + path], fetcher, ORIGIN))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # the server in this process holds five megabytes of the bomb while it packs them
        assert peak < (1_500_000 if path == "/huge" else 6_500_000), (path, peak)


def test_busy_servers_get_the_time_they_ask_for(server, client, tmp_path) -> None:
    clock = Clock()
    fetcher = fetcher_of(client, tmp_path, clock, delay=1.0, retries=3)
    page = fetcher.get(server.home + "/busy")
    assert page.content == b"<p>at last</p>"
    assert [s for s in clock.slept if s >= 7] == [7.0, 7.0]
    assert server.agents == {"llmchain/1.0 (me@example.org)"}


def test_retries_wait_longer_each_time(server, client, tmp_path) -> None:
    clock = Clock()
    fetcher = fetcher_of(client, tmp_path, clock, delay=1.0, retries=3)
    with pytest.raises(BadInput, match="status 500"):
        fetcher.get(server.home + "/broken")
    assert Counter(server.asked)["/broken"] == 4
    assert clock.slept == [1.0, 1.0, 2.0, 4.0]  # after robots.txt, then after each failure


def test_a_host_is_asked_once_a_pause(server, client, tmp_path) -> None:
    clock, times = Clock(), []
    fetcher = fetcher_of(client, tmp_path, clock, delay=2.5)
    fetcher.log = lambda when, url: times.append(when)
    for i in range(5):
        fetcher.get(f"{server.home}/page{i}")
    assert len(times) == 6  # robots.txt came first
    assert all(b - a >= 2.5 for a, b in zip(times, times[1:], strict=False))


def test_crawl_delay_counts_if_it_is_longer(server, client, tmp_path) -> None:
    server.robots = "User-agent: llmchain\nCrawl-delay: 9\nUser-agent: *\nDisallow: /"
    clock = Clock()
    fetcher = fetcher_of(client, tmp_path, clock, delay=1.0)
    fetcher.get(server.home + "/a")
    fetcher.get(server.home + "/b")
    assert clock.slept == [9.0, 9.0]


@pytest.mark.parametrize(
    ("status", "reason"),
    [(404, ""), (403, ""), (500, "robots.txt unreachable"), (429, "robots.txt unreachable")],
)
def test_without_robots_all_or_nothing(server, client, tmp_path, status, reason) -> None:
    server.robots_status = status
    fetcher = fetcher_of(client, tmp_path, Clock(), retries=1)
    (item,) = fetching.fetched_documents([server.home + "/private/x"], fetcher, ORIGIN)
    assert (item.reason if isinstance(item, Notice) else "") == reason
    assert server.asked.count("/private/x") == (not reason)


@pytest.mark.parametrize(
    ("address", "private"),
    [
        ("http://127.0.0.1:80/", True),
        ("http://[::1]/", True),
        ("http://10.1.2.3/", True),
        ("http://localhost./", True),
        ("http://printer/", True),
        ("http://db.internal/", True),
        ("https://example.org/a", False),
        ("http://93.184.216.34/", False),
    ],
)
def test_private_addresses(address: str, private: bool) -> None:
    assert fetching.is_private(address) is private


def test_nobody_answers(client, tmp_path) -> None:
    fetcher = fetcher_of(client, tmp_path, Clock(), retries=1)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
        address = f"http://127.0.0.1:{closed.server_port}/a"
    (notice,) = fetching.fetched_documents([address], fetcher, ORIGIN)
    assert notice.reason == "robots.txt unreachable"


@pytest.mark.parametrize(
    "address", ["ftp://x/a", "file:///etc/passwd", "http://", "http://[::1", "a b", "http://a\0b/"]
)
def test_addresses_that_are_none(client, tmp_path, address) -> None:
    fetcher = fetcher_of(client, tmp_path, Clock(), retries=0)
    (notice,) = fetching.fetched_documents([address], fetcher, ORIGIN)
    assert notice.reason in ("not http", "robots.txt unreachable")


def test_redirects_charsets_and_packing(server, client, tmp_path) -> None:
    fetcher = fetcher_of(client, tmp_path, Clock())
    paths = ["/moved", "/charset", "/latin", "/packed"]
    items = list(fetching.fetched_documents([server.home + p for p in paths], fetcher, ORIGIN))
    pages = [i for i in items if isinstance(i, dict)]
    assert pages[0]["url"] == server.home + "/page" and pages[0]["lang"] == "en"
    assert pages[0]["time"] == "2023-11-14T22:13:22Z"
    assert [p["html"] for p in pages[1:]] == [
        "<p>naïve 你好</p>",
        "<meta charset=iso-8859-1><p>café</p>",
        "<p>packed</p>",
    ]
    notices = [i for i in items if isinstance(i, Notice)]
    assert [(n.reason, n.kept) for n in notices] == [
        ("wrong charset", True),
        ("declared charset", True),
    ]


def test_what_is_there_is_not_asked_again(server, client, tmp_path) -> None:
    addresses = [server.home + p for p in ("/a", "/b", "/c")]
    first = fetcher_of(client, tmp_path, Clock())
    list(fetching.fetched_documents(addresses[:2], first, ORIGIN))
    server.asked.clear()
    rows = list(
        fetching.fetched_documents(addresses, fetcher_of(client, tmp_path, Clock()), ORIGIN)
    )
    assert server.asked == ["/robots.txt", "/c"]
    server.asked.clear()
    again = list(
        fetching.fetched_documents(addresses, fetcher_of(client, tmp_path, Clock()), ORIGIN)
    )
    assert server.asked == [] and again == rows  # the same bytes without a network
    stem = hashlib.sha256(addresses[0].encode()).hexdigest()
    (tmp_path / f"{stem}.body").write_bytes(b"torn")
    list(fetching.fetched_documents(addresses, fetcher_of(client, tmp_path, Clock()), ORIGIN))
    assert server.asked == ["/robots.txt", "/a"]


def test_a_warc_of_the_pages_repeats_and_reads_back(server, client, tmp_path) -> None:
    fetcher = fetcher_of(client, tmp_path, Clock())
    pages = [fetcher.get(server.home + p) for p in ("/a", "/charset")]
    one, two = io.BytesIO(), io.BytesIO()
    for file in (one, two):
        fetching.write_warc(pages, file)
    assert one.getvalue() == two.getvalue()
    one.seek(0)
    rows = [
        i
        for i in reading.file_documents(one, "a.warc.gz", ORIGIN | dict(url="", time=""))
        if isinstance(i, dict)
    ]
    assert [(r["url"], r["time"]) for r in rows] == [(p.url, p.time) for p in pages]
    assert rows[1]["html"] == "<p>naïve 你好</p>"


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [  # the examples of RFC 9309 and of those who wrote the format
        ("/fish", "/fish/salmon.html", True),
        ("/fish", "/Fish", False),
        ("/fish*", "/fishheads/yummy.html", True),
        ("/fish/", "/fish", False),
        ("/*.php", "/folder/any.php.file.html", True),
        ("/*.php$", "/filename.php?parameters", False),
        ("/*.php$", "/a.php/b.php", True),
        ("/fish*.php", "/fishheads/catfish.php?parameters", True),
        ("/a*b*c$", "/abc", True),
        ("/a*b*c$", "/acb", False),
        ("/*ab*ab$", "/ab", False),
        ("*", "/anything", True),
        ("/$", "/", True),
        ("/$", "/a", False),
    ],
)
def test_robots_patterns(pattern: str, path: str, expected: bool) -> None:
    assert fetching.path_matches(pattern, path) is expected


def test_robots_groups_and_precedence() -> None:
    text = """
    User-agent: other
    Disallow: /
    user-AGENT: LLMchain   # that is us
    User-agent: second
    Disallow: /a
    Allow: /a/b
    Disallow: /a/b/c

    Sitemap: https://example.org/map.xml
    User-agent: llmchain
    Disallow: /z
    Disallow: /é
    Disallow:
    Allow: /same
    Disallow: /same
    """
    rules = fetching.parse_robots(text, "llmchain")
    expected = {"/": True, "/a": False, "/a/b": True, "/a/b/c/d": False, "/z": False, "/same": True}
    assert {p: rules.allows(p) for p in expected} == expected
    assert not rules.allows("/é") and not rules.allows("/%C3%A9")
    assert fetching.parse_robots(text, "stranger") == fetching.Robots()


def test_robots_agree_with_the_standard_library_where_it_is_right() -> None:
    from urllib.robotparser import RobotFileParser

    text = "User-agent: *\nDisallow: /a\nDisallow: /b/\n\nUser-agent: llmchain\nDisallow: /c"
    for agent in ("llmchain", "stranger"):
        reference = RobotFileParser()
        reference.parse(text.splitlines())
        rules = fetching.parse_robots(text, agent)
        for path in ("/", "/a", "/ab", "/b", "/b/", "/b/x", "/c", "/cd", "/d"):
            assert rules.allows(path) == reference.can_fetch(agent, path), (agent, path)


def test_hostile_robots_take_no_time() -> None:
    rules = fetching.parse_robots("User-agent: *\nDisallow: /" + "*a" * 5000 + "$", "llmchain")
    start = time.process_time()
    assert rules.allows("/" + "a" * 4000)
    assert time.process_time() - start < 1
