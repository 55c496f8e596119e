"""Routes as methods of a class: each says its address where it stands, and ``routes_of`` makes a router of all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import APIRouter

Handler = TypeVar("Handler", bound=Callable[..., Any])
_MARK = "_route"


@dataclass(frozen=True)
class Address:
    """Method and path of a route, whether HEAD is answered too, and what FastAPI is told of it besides."""

    method: str
    path: str
    head: bool = False
    settings: dict[str, Any] = field(default_factory=dict)


def route(method: str, path: str, *, head: bool = False, **settings: Any) -> Callable[[Handler], Handler]:
    """A decorator: the method answers at this address. ``settings`` as ``APIRouter.add_api_route`` takes them.

    ``head``: a GET that is asked by HEAD too, for the size of a file before it is fetched.
    """

    def mark(handler: Handler) -> Handler:
        setattr(handler, _MARK, Address(method, path, head, settings))
        return handler

    return mark


def routes_of(owner: object, tag: str) -> APIRouter:
    """A router of an object's marked methods, in the order in which they stand in its class."""
    router = APIRouter(tags=[tag])
    for name, member in vars(type(owner)).items():
        if (at := getattr(member, _MARK, None)) is not None:
            router.add_api_route(at.path, getattr(owner, name), methods=[at.method], **at.settings)
            if at.head:
                router.add_api_route(at.path, getattr(owner, name), methods=["HEAD"], include_in_schema=False)
    return router
