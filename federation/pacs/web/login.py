"""What lets us in at an archive's web services: a login or a token, in a file of its own."""

import base64
import re

from federation.errors import ConfigError
from federation.pacs.address import WebAddress
from federation.secret import read_secret

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750 Section 2.1


def authorization(to: WebAddress) -> dict[str, str]:
    """The header that lets us in, if the address names a file for it.

    Ask anew for each request: tokens expire, and whoever renews them replaces the file. Raises
    :class:`ConfigError`, which holds nothing of what is in it.
    """
    if to.login is not None:
        login = read_secret(to.login, what="login").rstrip(b"\r\n")
        if b":" not in login or b"\n" in login:
            raise ConfigError(f"{to.login} holds no login; expected one line, user:password")
        return {"Authorization": f"Basic {base64.b64encode(login).decode('ascii')}"}
    if to.token is not None:
        token = read_secret(to.token, what="token").strip().decode("ascii", "replace")
        if not _TOKEN.fullmatch(token):
            raise ConfigError(f"{to.token} holds no bearer token; expected one, and nothing else")
        return {"Authorization": f"Bearer {token}"}
    return {}
