"""Credentials that come with a pull."""

from __future__ import annotations

import base64
import binascii
from urllib.parse import urlsplit

from moorage_api.errors import InvalidArgument
from moorage_api.transfer import Credentials, CredentialSource
from moorage_api.wire import cri_pb2


def source(auth: cri_pb2.AuthConfig) -> CredentialSource:
    """What to log in with at each registry host; nothing at hosts other than the one that `auth` names, if it does.

    `InvalidArgument` for an `auth` field that is not base64 of `user:password`.
    """
    credentials = _credentials(auth)
    only = _host(auth.server_address) if auth.server_address else ""

    async def at(host: str) -> Credentials | None:
        return credentials if not only or host == only else None

    return at


def _credentials(auth: cri_pb2.AuthConfig) -> Credentials | None:
    if auth.username:
        return Credentials(username=auth.username, secret=auth.password)
    if auth.identity_token:
        return Credentials(secret=auth.identity_token)
    if auth.auth:
        return _decode(auth.auth)
    if auth.registry_token:
        return Credentials(header=f"Bearer {auth.registry_token}")
    return None


def _decode(text: str) -> Credentials:
    try:
        user, colon, password = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise InvalidArgument("auth is not base64 of user:password") from error
    if not colon:
        raise InvalidArgument("auth is not base64 of user:password")
    return Credentials(username=user, secret=password.strip("\0"))


def _host(address: str) -> str:
    return urlsplit(address if "//" in address else f"//{address}").netloc
