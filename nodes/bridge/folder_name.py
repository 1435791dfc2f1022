"""The pack's files for the editor, where the name of its folder keeps ComfyUI from serving them.

aiohttp quotes the address of a static folder and compares it with the unquoted path of a request, so that a name with a
space or a letter outside ASCII never matches. It does not quote the regular expression of a route, as it is used here.
The editor asks for help pages under the part of the name before its first "." or "@".
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

log = logging.getLogger("sana")
SERVED_BY_COMFYUI = re.compile(r"[A-Za-z0-9_()-]+")
BROKEN = re.compile(r"[#?%{}]")  # the editor and the routes read these as something else


def serve(folder: Path) -> None:
    """`folder` is the pack's, as it is called in custom_nodes."""
    name = folder.name
    if SERVED_BY_COMFYUI.fullmatch(name):
        return
    if BROKEN.search(name):
        log.warning(
            "The folder name %s breaks SANA's templates and help pages in the editor: rename the folder to sana-native",
            name,
        )
        return
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is None:
        return
    get, help_name = server.routes.get, re.split("[.@]", name)[0]
    get(_address("workflow_templates", name))(_sender(folder / "workflows"))
    for web_name in {name, help_name}:
        get(_address("extensions", web_name))(_sender(folder / "js"))


def _address(place: str, name: str) -> str:
    return f"/{place}/{{folder:{re.escape(name)}}}/{{file:.+}}"


def _sender(folder: Path) -> Callable[[Any], Awaitable[Any]]:
    """Handler of requests for one of the files that are in the folder now."""
    from aiohttp import web

    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}

    async def send(request: Any) -> Any:
        path = files.get(request.match_info["file"])
        if path is None:
            raise web.HTTPNotFound()
        return web.FileResponse(path)

    return send
