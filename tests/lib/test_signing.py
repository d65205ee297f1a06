import base64
import hashlib
import hmac

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from synctec.lib.secret import Secret
from synctec.lib.signing import (
    is_myshopify_domain,
    sign_base64,
    sign_hex_query,
    verify_base64,
    verify_hex_query,
)

BODY = b'{"inventory_item_id":271878346596884015,"available":3}'
SECRET = Secret("hush")
GOOD = sign_base64(BODY, SECRET)

keys = st.text(min_size=1, max_size=40)


def test_the_signature_is_the_one_shopify_documents() -> None:
    expected = base64.b64encode(hmac.new(b"hush", BODY, hashlib.sha256).digest()).decode()

    assert expected == GOOD


@given(body=st.binary(), other=st.binary(), key=keys, other_key=keys)
@example(body=b"", other=b"", key="a", other_key="a")
def test_a_signature_holds_exactly_for_its_bytes_and_its_secret(
    body: bytes, other: bytes, key: str, other_key: str
) -> None:
    header = sign_base64(body, key)
    # RFC 2104: a key is padded with zero bytes, so "a" and "a\0" are one key.
    same_key = key.encode().ljust(64, b"\0") == other_key.encode().ljust(64, b"\0")

    assert verify_base64(body, header, [key])
    assert verify_base64(other, header, [other_key]) == (body == other and same_key)


@given(body=st.binary(min_size=1), bit=st.integers(min_value=0))
def test_any_flipped_bit_of_the_body_is_refused(body: bytes, bit: int) -> None:
    header = sign_base64(body, SECRET)
    index, mask = (bit // 8) % len(body), 1 << (bit % 8)
    changed = body[:index] + bytes([body[index] ^ mask]) + body[index + 1 :]

    assert not verify_base64(changed, header, [SECRET])


@given(bit=st.integers(min_value=0, max_value=255))
def test_any_flipped_bit_of_the_signature_is_refused(bit: int) -> None:
    digest = bytearray(base64.b64decode(GOOD))
    digest[bit // 8] ^= 1 << (bit % 8)

    assert not verify_base64(BODY, base64.b64encode(digest).decode(), [SECRET])


@given(header=st.one_of(st.none(), st.text(), st.binary()))
def test_whatever_the_header_holds_the_answer_is_no_and_not_an_error(header: str | bytes | None) -> None:
    assert verify_base64(BODY, header, [SECRET]) is False


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        b"",
        "=",
        "é" * 44,
        "ﬀ",
        "\udc80" * 44,
        GOOD[:-1],
        GOOD + "=",
        GOOD + "\n",
        " " + GOOD,
        GOOD.replace("=", "%3D"),
        GOOD.lower(),
        base64.b64decode(GOOD).hex(),
        "A" * 1_000_000,
        GOOD * 1000,
        b"\xff" * 44,
    ],
)
def test_odd_headers_are_refused(header: str | bytes | None) -> None:
    assert verify_base64(BODY, header, [SECRET]) is False


def test_the_unused_bits_of_the_last_character_must_be_zero() -> None:
    # 32 bytes leave two unused bits in the 43rd character: a lenient decoder takes four spellings.
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    respelled = GOOD[:-2] + alphabet[alphabet.index(GOOD[-2]) + 1] + "="

    assert base64.b64decode(respelled) == base64.b64decode(GOOD)
    assert not verify_base64(BODY, respelled, [SECRET])


def test_both_secrets_are_accepted_while_one_is_rotated() -> None:
    signed_with_old = sign_base64(BODY, "old")

    assert verify_base64(BODY, signed_with_old, [Secret("new"), Secret("old")])
    assert not verify_base64(BODY, signed_with_old, [Secret("new")])
    assert not verify_base64(BODY, signed_with_old, [])


def test_an_empty_secret_opens_nothing() -> None:
    signed_with_nothing = base64.b64encode(hmac.new(b"", BODY, hashlib.sha256).digest()).decode()

    assert not verify_base64(BODY, signed_with_nothing, ["", Secret("")])
    with pytest.raises(ValueError, match="empty"):
        sign_base64(BODY, "")
    with pytest.raises(ValueError, match="empty"):
        sign_hex_query({}, Secret(""))


def test_reserialised_json_is_refused() -> None:
    assert not verify_base64(BODY.replace(b",", b", "), GOOD, [SECRET])


def callback(**changes: str) -> dict[str, str]:
    params = {
        "code": "0907a61c0c8d55e99db179b68161bc00",
        "shop": "some-shop.myshopify.com",
        "state": "0.6784241404160823",
        "timestamp": "1337178173",
    }
    return params | changes


def test_the_callback_signature_is_hex_over_the_sorted_parameters() -> None:
    message = (
        b"code=0907a61c0c8d55e99db179b68161bc00&shop=some-shop.myshopify.com"
        b"&state=0.6784241404160823&timestamp=1337178173"
    )
    expected = hmac.new(b"hush", message, hashlib.sha256).hexdigest()

    assert sign_hex_query(callback(), SECRET) == expected
    assert verify_hex_query(callback(hmac=expected), SECRET)


@pytest.mark.parametrize(
    "changes",
    [
        {"shop": "evil.myshopify.com"},
        {"extra": "1"},
        {"code": ""},
        {"hmac": ""},
        {"hmac": "é" * 64},
        {"hmac": "0" * 64},
        {"hmac": "A" * 100_000},
    ],
)
def test_a_changed_callback_is_refused(changes: dict[str, str]) -> None:
    signed = callback(hmac=sign_hex_query(callback(), SECRET))

    assert verify_hex_query(signed | changes, SECRET) is False


def test_a_callback_without_signature_or_secret_is_refused() -> None:
    signed = callback(hmac=sign_hex_query(callback(), SECRET))

    assert verify_hex_query(callback(), SECRET) is False
    assert verify_hex_query(signed, "") is False
    assert verify_hex_query(signed | {"hmac": signed["hmac"].upper()}, SECRET) is False


def test_parameters_cannot_be_moved_into_each_other() -> None:
    smuggled = {"code": "1&shop=good.myshopify.com"}

    assert sign_hex_query(smuggled, SECRET) != sign_hex_query({"code": "1", "shop": "good.myshopify.com"}, SECRET)


@pytest.mark.parametrize("domain", ["a.myshopify.com", "Some-Shop.myshopify.com", "1-2.myshopify.com"])
def test_shop_domains_are_recognised(domain: str) -> None:
    assert is_myshopify_domain(domain)


@pytest.mark.parametrize(
    "domain",
    [
        "",
        "myshopify.com",
        ".myshopify.com",
        "-a.myshopify.com",
        "a.myshopify.com\n",
        "a.myshopify.com.",
        "a.b.myshopify.com",
        "a.myshopify.com.evil.example",
        "a.myshopify.com/",
        "a.myshopify.com:443",
        "https://a.myshopify.com",
        "evil.example/a.myshopify.com",
        "evil.example?a.myshopify.com",
        "user@a.myshopify.com",
        "amyshopify.com",
        "a_b.myshopify.com",
        "ä.myshopify.com",
        "a.myshopifyxcom",
        "a" * 64 + ".myshopify.com",
    ],
)
def test_other_domains_are_not(domain: str) -> None:
    assert not is_myshopify_domain(domain)
