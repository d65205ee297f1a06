"""Somebody with a browser: signs in, reads pages, follows links, fills in forms as they stand there."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Final
from urllib.parse import urljoin

import requests

TIMEOUT_SECONDS: Final = 30
#: Fields that say nothing unless they are pressed or filled in by hand.
_SILENT: Final = frozenset({"submit", "button", "image", "reset", "file"})
#: Elements whose text is not read.
_UNREAD: Final = frozenset({"script", "style", "title"})


@dataclass
class Form:
    """What a browser would send: the values that stand there, by name; and every name that can be filled in or pressed."""

    action: str = ""
    values: dict[str, list[str]] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)


@dataclass
class Page:
    """A page as its reader has it. `links` are addresses with their texts, in order."""

    address: str
    text: str
    links: list[tuple[str, str]]
    forms: list[Form]


class Visitor:
    """One browser session at `url`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session = requests.Session()

    def sign_in(self, email: str, password: str) -> None:
        """Through the page that everybody signs in at."""
        page = self.fill_in("/login/", username=email, password=password)
        assert not page.address.startswith(f"{self._url}/login"), page.text

    def read(self, path: str) -> Page:
        """Open a page, wherever it leads."""
        return self._page(self._session.get(urljoin(self._url, path), timeout=TIMEOUT_SECONDS))

    def download(self, path: str) -> str:
        """The text of a file."""
        response = self._session.get(urljoin(self._url, path), timeout=TIMEOUT_SECONDS)
        assert response.status_code == 200, (response.status_code, response.url)
        return response.text

    def fill_in(self, path: str, **answers: str | list[str]) -> Page:
        """Open a page, answer in the form that has these fields (or buttons), leave the others as they are, and send it."""
        return self.send(self.read(path), **answers)

    def send(self, page: Page, **answers: str | list[str]) -> Page:
        """Answer likewise in a form of the page that was read last."""
        fitting = [form for form in page.forms if form.names.issuperset(answers)]
        # Signing out is offered on every page.
        (form,) = [form for form in fitting if not form.action] or fitting
        sent = form.values | {name: [said] if isinstance(said, str) else said for name, said in answers.items()}
        address = urljoin(page.address, form.action)
        # Over https a browser says where it comes from, and Django wants to know; over http it does no harm.
        headers = {"Referer": page.address}
        return self._page(self._session.post(address, data=sent, headers=headers, timeout=TIMEOUT_SECONDS))

    def _page(self, response: requests.Response) -> Page:
        assert response.status_code == 200, (response.status_code, response.url, response.text[:500])
        reader = _Reader()
        reader.feed(response.text)
        return Page(response.url, " ".join("".join(reader.texts).split()), reader.links, reader.forms)


class _Reader(HTMLParser):
    """Takes a page apart."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.links: list[tuple[str, str]] = []
        self.forms: list[Form] = []
        self._form: Form | None = None
        self._link: tuple[str, int] | None = None
        self._chooses = ""
        self._writes = ""
        self._unread = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag in _UNREAD:
            self._unread += 1
        elif tag == "a" and "href" in given:
            self._link = (given["href"], len(self.texts))
        elif tag == "form":
            # Forms of other methods only ask.
            self._form = Form(given.get("action", ""))
            if given.get("method", "").lower() == "post":
                self.forms.append(self._form)
        elif self._form is not None:
            self._read_field(self._form, tag, given)
        self.texts.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag in _UNREAD:
            self._unread -= 1
        elif tag == "a" and self._link is not None:
            address, start = self._link
            self.links.append((address, " ".join("".join(self.texts[start:]).split())))
            self._link = None
        elif tag == "form":
            self._form = None
        elif tag == "select":
            self._chooses = ""
        elif tag == "textarea":
            self._writes = ""
        self.texts.append(" ")

    def handle_data(self, data: str) -> None:
        if self._form is not None and self._writes:
            self._form.values[self._writes] = [data.removeprefix("\n")]
        if not self._unread:
            self.texts.append(data)

    def _read_field(self, form: Form, tag: str, given: dict[str, str]) -> None:
        name = given.get("name", "")
        if tag == "option" and self._chooses:
            chosen = form.values.setdefault(self._chooses, [])
            # What nobody has chosen is the first one.
            if "selected" in given:
                form.values[self._chooses] = [given.get("value", "")]
            elif not chosen:
                chosen.append(given.get("value", ""))
        elif not name or "disabled" in given:
            return
        elif tag == "button" or given.get("type") in _SILENT:
            form.names.add(name)
        elif tag == "select":
            self._chooses = name
            form.names.add(name)
        elif tag == "textarea":
            self._writes = name
            form.names.add(name)
            form.values[name] = [""]
        elif tag == "input":
            form.names.add(name)
            if given.get("type") not in ("checkbox", "radio"):
                form.values.setdefault(name, []).append(given.get("value", ""))
            elif "checked" in given:
                form.values.setdefault(name, []).append(given.get("value", "on"))
