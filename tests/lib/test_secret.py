import copy
import dataclasses
import json
import logging
import pickle

import pytest

from synctec.lib.secret import Secret

CANARY = "shpat_canary"


def test_reveal_gives_the_text_back() -> None:
    assert Secret(CANARY).reveal() == CANARY


@pytest.mark.parametrize(
    "shown",
    [
        repr(Secret(CANARY)),
        str(Secret(CANARY)),
        f"{Secret(CANARY)}",
        f"{Secret(CANARY)!r:>40}",
        f"{Secret(CANARY):>40}",
        "%s" % Secret(CANARY),  # noqa: UP031
        repr([Secret(CANARY)]),
        repr({"token": Secret(CANARY)}),
        str(vars(Secret)),
    ],
)
def test_no_way_of_showing_it_shows_it(shown: str) -> None:
    assert "canary" not in shown


def test_logging_shows_the_mask(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("test").warning("token %s", Secret(CANARY))

    assert caplog.messages == ["token <secret>"]


def test_json_refuses_it() -> None:
    with pytest.raises(TypeError):
        json.dumps({"token": Secret(CANARY)})


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_refuses_it(protocol: int) -> None:
    with pytest.raises(TypeError, match="not to be pickled"):
        pickle.dumps(Secret(CANARY), protocol)


@pytest.mark.parametrize("name", ["value", "_value", "_Secret__value"])
def test_it_cannot_be_changed(name: str) -> None:
    secret = Secret(CANARY)

    with pytest.raises(AttributeError):
        setattr(secret, name, "other")
    with pytest.raises(AttributeError):
        delattr(secret, name)

    assert secret.reveal() == CANARY


def test_equal_texts_are_equal_secrets() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("ä€\udc80") == Secret("ä€\udc80")
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2


def test_a_plain_string_never_equals_a_secret() -> None:
    assert Secret("a") != "a"


def test_an_empty_secret_is_false() -> None:
    assert not Secret("")
    assert Secret("a")


def test_only_strings_are_wrapped() -> None:
    with pytest.raises(TypeError, match="not bytes"):
        Secret(b"a")  # type: ignore[arg-type]


def test_it_lives_in_dataclasses_that_are_copied() -> None:
    @dataclasses.dataclass(frozen=True)
    class Credential:
        token: Secret

    credential = Credential(Secret(CANARY))

    assert copy.deepcopy(credential) == credential
    assert dataclasses.asdict(credential) == {"token": Secret(CANARY)}
    assert "canary" not in repr(credential)
