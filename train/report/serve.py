"""Serves a page to browsers of this machine, and nothing else."""

from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOOPBACK = "127.0.0.1"
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8"}


def cases_folder(page: Path) -> Path:
    """Where the cases are that are not in the page: `report-cases` beside `report.html`."""
    return page.with_name(f"{page.stem}-cases")


def serve(page: Path, on_address: Callable[[str], None]) -> None:
    """Serve a page and its cases until the process is interrupted.

    `on_address` gets the page's address. The port is a free one.
    """
    with open_server(page) as server:
        on_address(f"http://{LOOPBACK}:{server.server_port}/{page.name}")
        server.serve_forever()


def open_server(page: Path) -> ThreadingHTTPServer:
    """The server, not yet serving: for the page and the scripts of its cases that are there."""
    folder = cases_folder(page)
    scripts = {f"/{folder.name}/{file.name}": file for file in folder.glob("*.js")}
    served = {f"/{page.name}": page} | scripts

    class Handler(_Handler):
        paths = served

    server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
    server.daemon_threads = True
    return server


class _Handler(BaseHTTPRequestHandler):
    """Answers for the paths of a table, which no other path can leave."""

    paths: dict[str, Path]

    def do_GET(self) -> None:
        """Send a file of the table, to a browser that was told this machine's address.

        A page of another site whose name was made to point here (DNS rebinding) sends its own name.
        The port may be another: that of an SSH tunnel.
        """
        if self.headers.get("Host", "").partition(":")[0] not in {LOOPBACK, "localhost"}:
            self.send_error(HTTPStatus.FORBIDDEN, "for browsers of this machine")
            return
        path = self.paths.get(unquote(urlsplit(self.path).path))
        try:
            content = path.read_bytes() if path else None
        except OSError:
            content = None
        if path is None or content is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", TYPES[path.suffix])
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's
        """Say nothing: a browser's requests are no news."""
