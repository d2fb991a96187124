"""Logging in: PLAIN and SCRAM-SHA1, -SHA256, -SHA512 (RFC 4616, RFC 5802).

Must not be in here: frames.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import Final

MECHANISMS: Final = {"SCRAM-SHA512": "sha512", "SCRAM-SHA256": "sha256", "SCRAM-SHA1": "sha1"}
NAMES: Final = (*MECHANISMS, "PLAIN")

# Few: the password of a test double needs no protection, and clients compute them too.
ITERATIONS = 4096


class LoginFailed(Exception):
    """Wrong user, wrong password or a message that makes no sense; which one is not told."""


def check_plain(message: bytes, user: str, password: str) -> None:
    """Raises LoginFailed."""
    parts = message.split(b"\0")
    if len(parts) != 3 or (parts[1], parts[2]) != (user.encode(), password.encode()):
        raise LoginFailed


class Scram:
    """The server's side of one SCRAM exchange."""

    def __init__(self, mechanism: str, user: str, password: str) -> None:
        self._hash = MECHANISMS[mechanism]
        self._user, self._password = user, password
        self._salt = secrets.token_bytes(16)
        self._nonce = ""
        self._messages: list[str] = []

    def challenge(self, message: bytes) -> bytes:
        """The answer to the client's first message, `n,,n=user,r=nonce`.  Raises LoginFailed."""
        text = _text(message)
        bare = text.split(",", 2)[-1]
        fields = _fields(bare)
        nonce = fields.get("r", "")
        if not text.startswith(("n,", "y,")) or not nonce:
            raise LoginFailed
        self._named = fields.get("n", "").replace("=2C", ",").replace("=3D", "=")
        self._nonce = nonce + secrets.token_urlsafe(18)
        salt = base64.b64encode(self._salt).decode()
        first = f"r={self._nonce},s={salt},i={ITERATIONS}"
        self._messages = [bare, first]
        return first.encode()

    def verdict(self, message: bytes) -> bytes:
        """The answer to the client's final message, `c=…,r=nonce,p=proof`.  Raises LoginFailed."""
        text = _text(message)
        without_proof, _, proof = text.rpartition(",p=")
        if not self._messages or _fields(without_proof).get("r") != self._nonce:
            raise LoginFailed
        salted = hashlib.pbkdf2_hmac(self._hash, self._password.encode(), self._salt, ITERATIONS)
        client_key = self._mac(salted, b"Client Key")
        stored = hashlib.new(self._hash, client_key).digest()
        exchanged = ",".join([*self._messages, without_proof]).encode()
        signature = self._mac(stored, exchanged)
        expected = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        try:
            given = base64.b64decode(proof, validate=True)
        except ValueError:
            raise LoginFailed from None
        if not hmac.compare_digest(given, expected) or self._named != self._user:
            raise LoginFailed
        server_signature = self._mac(self._mac(salted, b"Server Key"), exchanged)
        return b"v=" + base64.b64encode(server_signature)

    def _mac(self, key: bytes, message: bytes) -> bytes:
        return hmac.new(key, message, self._hash).digest()


def _text(message: bytes) -> str:
    try:
        return message.decode()
    except UnicodeDecodeError:
        raise LoginFailed from None


def _fields(text: str) -> dict[str, str]:
    return {each.partition("=")[0]: each.partition("=")[2] for each in text.split(",")}
