"""The few HTML pages: the list of stores, a store's shelf, the consent of OAuth."""

from __future__ import annotations

from functools import cache
from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from channels.sandbox.mall import Mall
    from channels.sandbox.oauth import AuthorizationRequest
    from channels.sandbox.store import Store


@cache
def _template(name: str) -> Template:
    return Template(files("channels.sandbox").joinpath(name).read_text())


def _page(title: str, body: str) -> str:
    return _template("frame.html").substitute(title=escape(title), body=body)


def index_page(mall: Mall) -> str:
    cards = "".join(
        f'<a class="card" href="/{escape(store.handle)}/"><b>{escape(store.name)}</b>'
        f"<span>{escape(store.domain)}</span>"
        f"<span>{len(store.variants)} variants · {len(store.orders)} orders</span></a>"
        for store in mall.stores.values()
    )
    empty = '<p class="quiet">No stores yet. Make one with POST /_control/stores.</p>'
    return _page("Sandbox stores", f'<h1>Sandbox stores</h1><div class="cards">{cards or empty}</div>')


def shelf_page(store: Store) -> str:
    body = _template("shelf.html").substitute(
        name=escape(store.name), domain=escape(store.domain), handle=escape(store.handle)
    )
    return _page(f"{store.name} · shelf", body)


def consent_page(store: Store, wanted: AuthorizationRequest) -> str:
    hidden = "".join(
        f'<input type="hidden" name="{name}" value="{escape(value)}">'
        for name, value in (
            ("client_id", wanted.client_id),
            ("redirect_uri", wanted.redirect_uri),
            ("state", wanted.state),
            ("scope", wanted.scope),
        )
    )
    scopes = "".join(f"<li>{escape(scope.strip())}</li>" for scope in wanted.scope.split(",") if scope.strip())
    body = (
        f'<div class="consent"><h1>Install the app on {escape(store.name)}?</h1>'
        f'<p class="quiet">{escape(store.domain)}</p>'
        f"<p>It asks for:</p><ul>{scopes or '<li>nothing in particular</li>'}</ul>"
        f'<form method="post">{hidden}<button class="buy">Install app</button></form></div>'
    )
    return _page("Install app", body)
