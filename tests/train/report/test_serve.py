"""Serving a page: to this machine's browsers alone, and only the page's own files."""

import http.client
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from train.report.serve import open_server


@pytest.fixture
def served(tmp_path: Path) -> Iterator[int]:
    """The port of a server; a secret lies beside its page."""
    (tmp_path / "secret.html").write_text("secret")
    (tmp_path / "a page.html").write_text("the page")
    (tmp_path / "a page-cases").mkdir()
    (tmp_path / "a page-cases" / "0.js").write_text("the case")
    (tmp_path / "a page-cases" / "secret.txt").write_text("secret")
    with open_server(tmp_path / "a page.html") as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def get(port: int, path: str, host: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers={} if host is None else {"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_the_page_and_its_cases_are_served(served: int) -> None:
    assert get(served, "/a%20page.html") == (200, "the page")
    assert get(served, "/a%20page-cases/0.js?again") == (200, "the case")
    assert get(served, "/a%20page-cases/0.js", "localhost:8000")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/a%20page-cases", "/secret.html", "//secret.html", "/a%20page-cases/secret.txt"),
        *("/a%20page-cases/../secret.html", "/a%20page-cases/%2e%2e/secret.html"),
    ],
)
def test_nothing_else_is(path: str, served: int) -> None:
    status, text = get(served, path)
    assert status == 404
    assert "secret" not in text.lower().replace(path.lower(), "")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
def test_a_name_that_was_made_to_point_here_is_refused(host: str, served: int) -> None:
    assert get(served, "/a%20page.html", host)[0] == 403
