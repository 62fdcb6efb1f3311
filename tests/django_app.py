"""A Django project of one file, as small as it gets, with views that answer with event streams."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final, cast

import django
from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import path

import covey
from covey.hub.http import ASGIApp, Receive, Scope, Send
from covey.interop.django import sse_response

if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["127.0.0.1"],
        MIDDLEWARE=["django.middleware.gzip.GZipMiddleware"],
        ROOT_URLCONF=__name__,
        SECRET_KEY="only for tests",
    )
    django.setup()

from django.core.asgi import get_asgi_application

streams: Final = covey.Streams()
news: Final = streams.stream("news", object)
hub: Final = covey.asgi(streams=streams)
django_app: Final = get_asgi_application()


async def read_news(request: HttpRequest) -> HttpResponseBase:
    return sse_response(news, request=request)


def read_news_synchronously(request: HttpRequest) -> HttpResponseBase:
    return sse_response(news, request=request)


async def read_breaks(request: HttpRequest) -> HttpResponseBase:
    return sse_response(breaks(), request=request)


async def breaks() -> AsyncGenerator[object]:
    yield "before"
    message = "the source broke"
    raise RuntimeError(message)


urlpatterns = [
    path("breaks", read_breaks),
    path("news", read_news),
    path("news-sync", read_news_synchronously),
]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    root = scope.get("root_path", "")
    if scope["type"] in {"http", "websocket"} and scope["path"].startswith(f"{root}/covey/"):
        await hub({**scope, "root_path": f"{root}/covey"}, receive, send)
    else:
        await cast("ASGIApp", django_app)(scope, receive, send)
