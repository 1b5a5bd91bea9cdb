"""Signatures that anybody can check: DSSE envelopes around statements, signed with ed25519.

The signed bytes are those of https://github.com/secure-systems-lab/dsse (PAE); a key is the PEM that
`openssl genpkey -algorithm ed25519` writes, and its id is the sha256 of the public key in DER.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.errors import SettingError, SignatureError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
PRIVATE, PUBLIC = "OLMOEARTH_SIGNING_KEY", "OLMOEARTH_TRUSTED_KEYS"
_PEM = re.compile(r"-----BEGIN ([A-Z ]+)-----.+?-----END \1-----", re.DOTALL)


def make_key(path: Path) -> tuple[Path, Path, str]:
    """Make a key pair: `path` (private, readable by its owner alone) and `path`.pub; both, and the key's id.

    Raises:
        SignatureError: one of the files is there already, or cannot be written.
    """
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    public = path.with_name(f"{path.name}.pub")
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    shown = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for place, content, mode in ((path, private, 0o600), (public, shown, 0o644)):
            with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(content)
    except FileExistsError as error:
        raise SignatureError(f"{error.filename}: is there already; a key is never written over.") from None
    except OSError as error:
        raise SignatureError(f"{error.filename}: cannot be written ({error.strerror}).") from error
    return path, public, key_id(key.public_key())


def key_id(key: Ed25519PublicKey) -> str:
    """sha256 (64 hex digits) of the public key in DER."""
    from cryptography.hazmat.primitives import serialization as form

    return hashlib.sha256(key.public_bytes(form.Encoding.DER, form.PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def signing_key(setting: str | None) -> Ed25519PrivateKey | None:
    """The private key that OLMOEARTH_SIGNING_KEY is, or the file that it names; None where it is not set.

    Raises:
        SettingError: it is no ed25519 private key.
    """
    if not setting:
        return None
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(_pem(PRIVATE, setting).encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise SettingError(
            f"{PRIVATE}: is not an ed25519 private key without a passphrase, as PEM or a file that holds it. "
            "Make one with `olmoearth keys new FILE`."
        )
    return key


def trusted_keys(trusted: str | None, signing: str | None = None) -> dict[str, Ed25519PublicKey]:
    """The public keys of OLMOEARTH_TRUSTED_KEYS (PEM, one after another, or a file of them) and of the signing key.

    Raises:
        SettingError: one of them is no ed25519 key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    own = signing_key(signing)
    found = [] if own is None else [own.public_key()]
    for match in _PEM.finditer(_pem(PUBLIC, trusted)) if trusted else ():
        try:
            key = load_pem_public_key(match.group(0).encode())
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PublicKey):
            raise SettingError(
                f"{PUBLIC}, or --key: holds a key that is no ed25519 public key ({match.group(1).lower()}). "
                "The public key is the file that ends in .pub."
            )
        found.append(key)
    return {key_id(key): key for key in found}


def _pem(setting: str, value: str) -> str:
    """The PEM that a setting is, or that the file it names holds."""
    if "-----BEGIN" in value:
        return value.replace("\\n", "\n")  # as container settings write a text of several lines
    try:
        text = Path(value).expanduser().read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise SettingError(f"{setting}: the file cannot be read as PEM ({error.__class__.__name__}).") from None
    if "-----BEGIN" not in text:
        raise SettingError(f"{setting}: {value} holds no PEM.")
    return text


def signed_bytes(payload: bytes, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """What is signed: DSSE's pre-authentication encoding of the payload."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def seal(payload: bytes, key: Ed25519PrivateKey | None) -> dict[str, Any]:
    """A DSSE envelope of a statement; without signatures where there is no key."""
    signatures = []
    if key is not None:
        signature = base64.b64encode(key.sign(signed_bytes(payload))).decode()
        signatures.append({"keyid": key_id(key.public_key()), "sig": signature})
    return {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": signatures,
    }


def unseal(envelope: Mapping[str, Any], keys: Mapping[str, Ed25519PublicKey]) -> tuple[bytes, str | None]:
    """The payload of an envelope, and the id of the trusted key that signed it; None where nobody signed it.

    Raises:
        SignatureError: no such envelope; signatures, and none of a trusted key; one of a trusted key that is false.
    """
    from cryptography.exceptions import InvalidSignature

    try:
        kind, payload = str(envelope["payloadType"]), base64.b64decode(envelope["payload"], validate=True)
        signatures = [(str(s["keyid"]), base64.b64decode(s["sig"], validate=True)) for s in envelope["signatures"]]
    except (KeyError, TypeError, ValueError) as error:
        raise SignatureError(f"is no DSSE envelope ({error.__class__.__name__})") from None
    if kind != PAYLOAD_TYPE:
        raise SignatureError(f"holds {kind}, not {PAYLOAD_TYPE}")
    known = [(name, signature) for name, signature in signatures if name in keys]
    for name, signature in known:
        try:
            keys[name].verify(signature, signed_bytes(payload))
        except InvalidSignature:
            raise SignatureError(
                f"its signature by the key {name[:16]} is false: it was changed after signing"
            ) from None
    if signatures and keys and not known:
        raise SignatureError(f"is signed by {signatures[0][0][:16]}, which is none of the trusted keys")
    return payload, known[0][0] if known else None
