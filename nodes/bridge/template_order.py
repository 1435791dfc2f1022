"""The order of the pack's templates in the editor's browser: ComfyUI lists them as the file system does."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

ADDRESSES = ("/workflow_templates", "/api/workflow_templates")
FIRST = "SANA-quick-start"


def sort_templates(folder_name: str) -> None:
    """Quick starts first, then the others by name. folder_name: the pack's in custom_nodes. No server: nothing."""
    from aiohttp import web
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is None:
        return

    @web.middleware
    async def in_order(request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        response = await handler(request)
        if request.path not in ADDRESSES or response.status != web.HTTPOk.status_code:
            return response
        templates = json.loads(response.text)
        templates.get(folder_name, []).sort(key=lambda name: (not name.startswith(FIRST), name))
        return web.json_response(templates)

    server.app.middlewares.append(in_order)
