"""A client of ComfyUI's websocket: a script, or one that says that it is an editor."""

import asyncio
import contextlib
import json
import threading

import pytest

LONGEST = 240  # seconds without a message
ENDS = ("execution_success", "execution_error", "execution_interrupted")
PREVIEW, WORDS, PREVIEW_WITH_NODE = 1, 3, 4  # kinds of the host's messages that are not JSON


class Client(threading.Thread):
    """Keeps what the server sends to it, in order: (type, data) of JSON, ("binary", bytes) of pictures and words."""

    def __init__(self, server, name, editor=False):
        super().__init__(daemon=True)
        self.aiohttp = pytest.importorskip("aiohttp", reason="messages come over a WebSocket, read with aiohttp")
        self.server, self.name, self.editor = server, name, editor
        self.messages, self.connected = [], threading.Event()
        self.arrived = threading.Condition()
        self.start()
        assert self.connected.wait(LONGEST)

    def run(self):
        with contextlib.suppress(self.aiohttp.ClientError, OSError):  # the server stops at the end of the tests
            asyncio.run(self._listen())

    def queue(self, graph):
        return self.server.queue(graph, self.name)

    def wait(self, kinds, prompt_id, fits=lambda data: True):
        """The type of the first message about a prompt that is one of these kinds, and whose data fit."""
        with self.arrived:
            while True:
                found = next((kind for kind, data in self.about(prompt_id) if kind in kinds and fits(data)), None)
                if found:
                    return found
                assert self.arrived.wait(LONGEST), f"nothing more of {prompt_id}"

    def about(self, prompt_id):
        """Messages that name a prompt."""
        return [entry for entry in self.messages if isinstance(entry[1], dict) and _id(entry[1]) == prompt_id]

    def progress(self, prompt_id):
        """What its progress messages say, in order."""
        return [data for kind, data in self.about(prompt_id) if kind == "progress"]

    def binary(self, kind):
        """Contents of the messages of one kind that are not JSON."""
        sent = [data for name, data in self.messages if name == "binary"]
        return [data[4:] for data in sent if int.from_bytes(data[:4], "big") == kind]

    def prompts(self):
        """All prompts that any message names."""
        return {_id(data) for _, data in self.messages if isinstance(data, dict)} - {None}

    async def _listen(self):
        address = f"http://127.0.0.1:{self.server.port}/ws?clientId={self.name}"
        async with self.aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as socket:
            if self.editor:
                await socket.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
            self.connected.set()
            async for message in socket:
                if message.type == self.aiohttp.WSMsgType.BINARY:
                    entry = ("binary", message.data)
                else:
                    sent = json.loads(message.data)
                    entry = (sent["type"], sent["data"])
                with self.arrived:
                    self.messages.append(entry)
                    self.arrived.notify_all()


def _id(data):
    return data.get("prompt_id")
