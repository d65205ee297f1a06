import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synctec.lib.crypto import (
    BadKeyRing,
    CryptoError,
    KeyRing,
    NotSealed,
    Tampered,
    UnknownKey,
    generate_key,
)
from synctec.lib.secret import Secret

PLACE = "channels_credential:17:3:access_token"
OLD_KEY = base64.b64encode(b"o" * 32).decode()
NEW_KEY = base64.b64encode(b"n" * 32).decode()
RING = KeyRing.parse(f"k1:{OLD_KEY}")

texts = st.text()
places = st.text(min_size=1)


@given(text=texts, place=places)
def test_what_was_sealed_opens_in_its_place(text: str, place: str) -> None:
    assert RING.open(RING.seal(text, bound_to=place), bound_to=place) == Secret(text)


@given(text=texts, place=places, elsewhere=places)
def test_what_was_sealed_does_not_open_elsewhere(text: str, place: str, elsewhere: str) -> None:
    sealed = RING.seal(Secret(text), bound_to=place)

    if place != elsewhere:
        with pytest.raises(Tampered):
            RING.open(sealed, bound_to=elsewhere)


@given(text=texts, position=st.integers(min_value=0), flip=st.integers(min_value=1, max_value=255))
def test_any_changed_byte_is_noticed(text: str, position: int, flip: int) -> None:
    version, key_id, payload = RING.seal(text, bound_to=PLACE).split(".")
    raw = bytearray(base64.urlsafe_b64decode(payload + "=="))
    raw[position % len(raw)] ^= flip
    changed = base64.urlsafe_b64encode(bytes(raw)).rstrip(b"=").decode()

    with pytest.raises(Tampered):
        RING.open(f"{version}.{key_id}.{changed}", bound_to=PLACE)


@given(text=st.text(max_size=200))
def test_any_other_text_is_refused_by_an_error_of_ours(text: str) -> None:
    with pytest.raises(CryptoError):
        RING.open(text, bound_to=PLACE)

    assert RING.is_current(text) in {True, False}


@pytest.mark.parametrize(
    "text", ["", "v1", "v1.k1", "v1.k1.", "v2.k1.AAAA", "v1.k 1.AAAA", "v1.k1.a", "v1.k1.=", "v1.k1.A+/A"]
)
def test_what_is_not_sealed_is_told_apart(text: str) -> None:
    with pytest.raises((NotSealed, Tampered)):
        RING.open(text, bound_to=PLACE)


def test_a_payload_has_one_spelling_only() -> None:
    sealed = RING.seal("x", bound_to=PLACE)  # 29 bytes: the last character carries four unused bits
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    respelled = sealed[:-1] + alphabet[alphabet.index(sealed[-1]) + 1]

    with pytest.raises(NotSealed):
        RING.open(respelled, bound_to=PLACE)
    with pytest.raises(NotSealed):
        RING.open(sealed + "=", bound_to=PLACE)


def test_the_sealed_text_names_version_and_key_and_hides_the_rest() -> None:
    sealed = RING.seal("shpat_canary", bound_to=PLACE)

    assert sealed.startswith("v1.k1.")
    assert "canary" not in sealed
    assert sealed != RING.seal("shpat_canary", bound_to=PLACE)


def test_rotation_reads_old_texts_and_reseals_them() -> None:
    sealed_before = RING.seal("token", bound_to=PLACE)
    ring = KeyRing.parse(f"k2:{NEW_KEY}, k1:{OLD_KEY}")

    sealed_after = ring.seal(ring.open(sealed_before, bound_to=PLACE), bound_to=PLACE)

    assert not ring.is_current(sealed_before)
    assert ring.is_current(sealed_after)
    assert ring.open(sealed_after, bound_to=PLACE) == Secret("token")


def test_a_key_that_was_dropped_is_named() -> None:
    sealed = RING.seal("token", bound_to=PLACE)

    with pytest.raises(UnknownKey, match="'k1'"):
        KeyRing.parse(f"k2:{NEW_KEY}").open(sealed, bound_to=PLACE)


def test_another_key_of_the_same_id_does_not_open() -> None:
    sealed = RING.seal("token", bound_to=PLACE)

    with pytest.raises(Tampered):
        KeyRing.parse(f"k1:{NEW_KEY}").open(sealed, bound_to=PLACE)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "key 1 has no id"),
        (OLD_KEY, "key 1 has no id"),
        (f"k1:{OLD_KEY},", "key 2 has no id"),
        (f"k1:{OLD_KEY},k1:{NEW_KEY}", "'k1' is given twice"),
        ("k1:not base64", "key 1 is not base64"),
        ("k1:ä", "key 1 is not base64"),
        ("k1:c2hvcnQ=", "'k1' has 5 bytes, not 32"),
        (f":{OLD_KEY}", "key id '' is not usable"),
        (f"k.1:{OLD_KEY}", "key id 'k.1' is not usable"),
    ],
)
def test_a_bad_ring_says_what_is_wrong_and_shows_no_key(text: str, complaint: str) -> None:
    with pytest.raises(BadKeyRing, match=complaint) as caught:
        KeyRing.parse(text)

    assert OLD_KEY not in str(caught.value)


def test_a_ring_shows_ids_only() -> None:
    assert repr(KeyRing.parse(f"k2:{NEW_KEY},k1:{OLD_KEY}")) == "KeyRing(k2, k1)"


def test_an_empty_place_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="bound_to"):
        RING.seal("token", bound_to="")


def test_a_generated_key_fits_a_ring() -> None:
    ring = KeyRing.parse(f"k1:{generate_key()}")

    assert ring.open(ring.seal("token", bound_to=PLACE), bound_to=PLACE) == Secret("token")
    assert generate_key() != generate_key()


# --- bytes --------------------------------------------------------------------------------------------------


@given(plain=st.binary(), place=places)
def test_bytes_that_were_sealed_open_in_their_place(plain: bytes, place: str) -> None:
    assert RING.open_bytes(RING.seal_bytes(plain, bound_to=place), bound_to=place) == plain


def test_another_process_opens_them_by_the_same_ring() -> None:
    sealed = RING.seal_bytes(b"a body", bound_to=PLACE)

    assert KeyRing.parse(f"k2:{NEW_KEY},k1:{OLD_KEY}").open_bytes(sealed, bound_to=PLACE) == b"a body"
    with pytest.raises(UnknownKey, match="k1"):
        KeyRing.parse(f"k2:{NEW_KEY}").open_bytes(sealed, bound_to=PLACE)
    with pytest.raises(Tampered):
        KeyRing.parse(f"k1:{NEW_KEY}").open_bytes(sealed, bound_to=PLACE)


@given(plain=st.binary(), place=places, elsewhere=places)
def test_bytes_do_not_open_elsewhere(plain: bytes, place: str, elsewhere: str) -> None:
    sealed = RING.seal_bytes(plain, bound_to=place)

    if place != elsewhere:
        with pytest.raises(Tampered):
            RING.open_bytes(sealed, bound_to=elsewhere)


@given(plain=st.binary(), position=st.integers(min_value=0), flip=st.integers(min_value=1, max_value=255))
def test_any_changed_byte_of_sealed_bytes_is_noticed(plain: bytes, position: int, flip: int) -> None:
    changed = bytearray(RING.seal_bytes(plain, bound_to=PLACE))
    changed[position % len(changed)] ^= flip

    with pytest.raises((NotSealed, UnknownKey, Tampered)):
        RING.open_bytes(bytes(changed), bound_to=PLACE)


@given(plain=st.binary(), cut=st.integers(min_value=0))
def test_any_other_bytes_are_refused_by_an_error_of_ours(plain: bytes, cut: int) -> None:
    sealed = RING.seal_bytes(plain, bound_to=PLACE)
    for strange in (plain, sealed[: cut % len(sealed)]):
        with pytest.raises(CryptoError):
            RING.open_bytes(strange, bound_to=PLACE)


def test_two_sealings_of_the_same_bytes_differ_and_hide_them() -> None:
    one, other = (RING.seal_bytes(b"shpat_canary" * 9, bound_to=PLACE) for _ in range(2))

    assert one != other
    assert b"canary" not in one
    assert len(one) < 9 * len(b"shpat_canary") + 64
