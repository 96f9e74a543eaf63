"""What is no HTTP, on a connection whose request is being answered."""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from unittest.mock import Mock

import pytest
import uvicorn
from uvicorn.server import ServerState

from vitlora.serving.running import _Impatient

HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_an_answer_after_a_malformed_body_goes_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    """The connection is closed; uvicorn learns that a moment later."""
    written: list[bytes] = []

    async def play() -> None:
        go = asyncio.Event()

        async def application(scope: Any, receive: Any, send: Any) -> None:
            await go.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"answer"})

        config = uvicorn.Config(application, http=_Impatient, ws="none", log_config=None)
        config.load()
        state = ServerState()
        protocol = _Impatient(config, state, {})  # type: ignore[arg-type]
        transport = Mock(spec=asyncio.Transport)
        transport.get_extra_info.return_value = None
        transport.is_closing.return_value = False
        transport.write.side_effect = written.append
        protocol.connection_made(transport)
        protocol.data_received(HEAD)
        await asyncio.sleep(0)
        protocol.data_received(b"no length\r\n")
        assert transport.close.called
        go.set()
        await asyncio.gather(*state.tasks)
        protocol.connection_lost(None)

    with caplog.at_level(logging.ERROR, "uvicorn"):
        asyncio.run(play())
    assert b"".join(written).startswith(b"HTTP/1.1 400") and b"answer" not in b"".join(written)
    assert not caplog.records
