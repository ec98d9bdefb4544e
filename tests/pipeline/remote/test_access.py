"""Where the remote cache is and what may be done there; and keys as openssl writes them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConfigError
from pipeline.remote.access import PASSWORD, SIGNING_KEY, TOKEN, USER, access
from pipeline.remote.signature import is_signed, private_key, public_key, sign
from pipeline.settings import Settings

ADDRESS = "https://cache.example.org/lockgate"


def settings(address: str = ADDRESS, **more: Any) -> Settings:
    return Settings(remote_cache=address, **more)


def test_reading_is_what_is_done_unless_writing_is_asked_for() -> None:
    found = access(settings(), {})
    assert (found.address, found.write, found.authorization, found.trusted, found.signing) == (ADDRESS, False, "", (), b"")
    assert access(settings(f"{ADDRESS}/", remote_cache_write=True), {}).write


@pytest.mark.parametrize(
    "address", ["cache:8080", "ftp://cache/", "http://", "http://cache:port/", "http://cache/?a=b", "http://[/"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="is no address of a remote cache"):
        access(settings(address), {})


def test_an_address_with_credentials_is_refused_and_they_are_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        access(settings("https://me:open-sesame@cache.example.org/"), {})
    assert "credentials" in str(caught.value)
    assert PASSWORD in caught.value.next
    assert "sesame" not in str(caught.value)


def test_a_user_or_a_token_comes_from_the_environment_and_is_not_shown() -> None:
    found = access(settings(), {USER: "me", PASSWORD: "open-sesame"})
    assert found.authorization == "Basic bWU6b3Blbi1zZXNhbWU="
    assert "bWU6" not in repr(found)
    assert access(settings(), {TOKEN: "abc"}).authorization == "Bearer abc"


@pytest.mark.parametrize("environment", [{USER: "me"}, {PASSWORD: "x"}, {TOKEN: "abc", USER: "me", PASSWORD: "x"}])
def test_half_of_what_is_needed_and_too_much_are_refused(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="is set, and"):
        access(settings(), environment)


def openssl(*words: str) -> str:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    return subprocess.run(["openssl", *words], capture_output=True, text=True, check=True).stdout


def test_keys_are_read_as_openssl_writes_them(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    openssl("genpkey", "-algorithm", "ed25519", "-out", str(key))
    private, public = key.read_text(), openssl("pkey", "-in", str(key), "-pubout")
    found = access(settings(remote_cache_trusted=[public.splitlines()[1]]), {SIGNING_KEY: private})
    signature = sign("k" * 64, "r" * 64, found.signing)
    assert is_signed(signature, "k" * 64, "r" * 64, found.trusted)
    assert private_key(private.splitlines()[1]) == found.signing
    assert public_key(public) == found.trusted[0]
    assert repr(found.signing) not in repr(found)


def test_a_signature_is_about_one_record_under_one_key(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    trusted = (private.public_key().public_bytes_raw(),)
    signature = sign("a", "b", private.private_bytes_raw())
    assert is_signed(signature, "a", "b", trusted)
    assert not is_signed(signature, "a", "c", trusted)
    assert not is_signed(signature, "c", "b", trusted)
    assert not is_signed(signature, "a", "b", ())
    for odd in (b"", signature[:-4], b"ed25519 !", signature.removeprefix(b"ed25519 "), b"ed25519 " + b"A" * 88):
        assert not is_signed(odd, "a", "b", trusted)


@pytest.mark.parametrize(
    "text", ["", "abc", "MCowBQYDK2VwAyEA", "MC4CAQAwBQYDK2VwBCIEIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]
)
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no public key of Ed25519"):
        access(settings(remote_cache_trusted=[text]), {})


def test_what_is_no_private_key_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        access(settings(), {SIGNING_KEY: "c2VjcmV0LXNlY3JldA=="})
    assert SIGNING_KEY in str(caught.value)
    assert "c2Vj" not in str(caught.value)
