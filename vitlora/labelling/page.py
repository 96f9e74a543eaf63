"""The page on which pictures are labelled, served to this machine alone."""

import io
import json
import secrets
import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from vitlora.data.images import open_image
from vitlora.data.preprocessing import Preprocessing
from vitlora.errors import DataError, VitloraError
from vitlora.labelling.session import Session
from vitlora.pages.page import render

_HOSTS = ("127.0.0.1", "localhost")
_SIDE = 1280  # pixels of a picture as it is shown
_MOST_BYTES = 2**16  # of a request
_PATIENCE = 30  # seconds that a connection may be silent
_POLICY = (
    "default-src 'none'; img-src 'self' data:; connect-src 'self'; script-src 'nonce-{0}'; "
    "style-src 'nonce-{0}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class LabellingPage:
    """A server on 127.0.0.1 for one session.

    The address has a random token, without which nothing is answered; nor is a request that
    names another host, as a foreign page could make by way of its own name server.

    Args:
        session: The questions.
        preprocessing: How the bundle sees pictures, for those deeper than 8 bits.
        port: 0 for a free one.

    Attributes:
        address: Where the page is.

    Raises:
        OSError: The port is taken, or may not be used.
    """

    def __init__(self, session: Session, preprocessing: Preprocessing, port: int = 0) -> None:
        self._token = secrets.token_urlsafe(16)
        answers = _Answers(session, preprocessing, self._stop)
        self._server = _Server(("127.0.0.1", port), partial(_Handler, answers, self._token))
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}/{self._token}/"

    def serve(self) -> None:
        """Answers until the page's own button or Ctrl-C ends it."""
        try:
            self._server.serve_forever(poll_interval=0.1)
        finally:
            self._server.server_close()

    def _stop(self) -> None:
        # a thread of its own: the server waits for this until it has stopped
        threading.Thread(target=self._server.shutdown, daemon=True).start()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Passes over connections that broke; reports others as Python does."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _RefusedError(Exception):
    """A request that is not answered.

    Args:
        status: Of HTTP.
    """

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


class _Answers:
    """What requests get, apart from HTTP.

    Args:
        session: The questions.
        preprocessing: How pictures are opened.
        stop: Ends the server.
    """

    def __init__(
        self, session: Session, preprocessing: Preprocessing, stop: Callable[[], None]
    ) -> None:
        self._session, self._preprocessing, self.stop = session, preprocessing, stop

    def page(self, nonce: str) -> bytes:
        """Returns the page, which asks for all the rest."""
        return render("sort.html", nonce=nonce).encode()

    def picture(self, digest: str) -> bytes:
        """Returns a picture as a JPEG that a browser can show.

        Raises:
            _RefusedError: It is not one of the session's, or cannot be read.
        """
        if (one := self._session.picture(digest)) is None:
            raise _RefusedError(HTTPStatus.NOT_FOUND)
        known = self._preprocessing
        try:
            image = open_image(one.path, _SIDE, known.value_range, known.srgb)
        except DataError:
            raise _RefusedError(HTTPStatus.NOT_FOUND) from None
        image.thumbnail((_SIDE, _SIDE))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85)
        return buffer.getvalue()

    def act(self, name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Does what a button says, and returns what the page shows next.

        Raises:
            _RefusedError: There is no such action, or a field of it is not a text.
        """
        said = ""
        try:
            match name:
                case "state" | "finish":
                    pass
                case "answer":
                    self._session.answer(_text(fields, "id"), _text(fields, "class"))
                case "skip":
                    self._session.answer(_text(fields, "id"), None)
                case "undo":
                    self._session.undo()
                case "file":
                    said = self._session.file()
                case _:
                    raise _RefusedError(HTTPStatus.NOT_FOUND)
        except VitloraError as error:
            return {"error": str(error), **self._session.state()}
        except OSError as error:  # a full disk, say
            wrong = f"not kept: {error.strerror or error}"
            return {"error": wrong, **self._session.state()}
        return {"said": said, **self._session.state()}


def _text(fields: Mapping[str, Any], name: str) -> str:
    if not isinstance(value := fields.get(name), str):
        raise _RefusedError(HTTPStatus.BAD_REQUEST)
    return value


class _Handler(BaseHTTPRequestHandler):
    """HTTP/1.1 for ``_Answers``: checks the host, the token and the size of what comes in."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "vitlora", ""
    timeout = _PATIENCE

    def __init__(self, answers: _Answers, token: str, *connection: Any) -> None:
        self._answers, self._token = answers, token
        super().__init__(*connection)

    def do_GET(self) -> None:
        """Answers with the page or a picture."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """Answers with the state after an action."""
        self._answer(self._post)

    def _answer(self, answer: Callable[[str], None]) -> None:
        try:
            answer(self._place())
        except _RefusedError as error:
            self.close_connection = True  # what it sent with the request is still unread
            self._send(str(error).encode(), "text/plain; charset=utf-8", error.status)

    def _place(self) -> str:
        """Returns what of the page is asked for.

        Raises:
            _RefusedError: The request does not come from the page.
        """
        host = self.headers.get("Host", "").rpartition(":")
        if (host[0] or host[2]) not in _HOSTS:
            raise _RefusedError(HTTPStatus.FORBIDDEN)
        _, token, *rest = f"{self.path}/".split("/", 2)
        if not secrets.compare_digest(token.encode(), self._token.encode()):
            raise _RefusedError(HTTPStatus.NOT_FOUND)
        return rest[0].removesuffix("/")

    def _get(self, place: str) -> None:
        kind, _, digest = place.partition("/")
        if not place:
            nonce = secrets.token_urlsafe(16)
            page = self._answers.page(nonce)
            self._send(page, "text/html; charset=utf-8", policy=_POLICY.format(nonce))
        elif kind == "picture":
            self._send(self._answers.picture(digest), "image/jpeg", keep=True)
        else:
            raise _RefusedError(HTTPStatus.NOT_FOUND)

    def _post(self, place: str) -> None:
        if self.headers.get("Content-Type", "").partition(";")[0] != "application/json":
            raise _RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            raise _RefusedError(HTTPStatus.LENGTH_REQUIRED)
        if len(length) > 9 or int(length) > _MOST_BYTES:
            raise _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        try:
            fields = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            raise _RefusedError(HTTPStatus.BAD_REQUEST) from None
        if not isinstance(fields, dict):
            raise _RefusedError(HTTPStatus.BAD_REQUEST)
        found = self._answers.act(place, fields)
        self._send(json.dumps(found).encode(), "application/json")
        if place == "finish":  # after the reply, which would not be sent any more
            self._answers.stop()

    def _send(
        self,
        body: bytes,
        kind: str,
        status: HTTPStatus = HTTPStatus.OK,
        policy: str = "default-src 'none'",
        keep: bool = False,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", policy)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Cache-Control", "private, max-age=600" if keep else "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: the page shows what happens."""
