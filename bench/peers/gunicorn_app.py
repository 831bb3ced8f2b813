"""Starlette with the work for the pool handed to gunicorn's dirty workers."""

from common import trivial
from gunicorn.dirty import DirtyApp, get_dirty_client_async
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route


class Work(DirtyApp):
    """What a dirty worker does."""

    def __call__(self, action, *args, **named):
        return trivial()


async def in_pool(request):
    client = await get_dirty_client_async(timeout=60.0)
    answer = await client.execute_async("gunicorn_app:Work", "trivial")
    return PlainTextResponse(answer)


app = Starlette(routes=[Route("/pool", in_pool)])
