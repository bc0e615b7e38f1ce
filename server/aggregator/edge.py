"""nginx in front of the SuperLink: TLS, and nothing but what approved SuperNodes ask.

The SuperLink serves its Fleet, Control and Runtime APIs at one port, and only the first knows who
is asking. Whoever reaches the others can start runs and read tensors. nginx passes the calls of
the first, by their exact form, and answers 403 to all else.

The first too asks who calls only when it has parsed what was sent, at 30 times its size in memory.
So nginx passes a call only where it names the key of a site that is approved; that whoever calls
has this key, the SuperLink then verifies. To all others nginx answers as the SuperLink would, for
SuperNodes to end as they do there.
"""

import shutil
from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path

from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from flwr.supercore.error import ApiErrorCode

from federation.errors import ConfigError
from federation.whole import SECRET, write_over
from server.aggregator.home import Home

_DAEMONS = "/usr/sbin"  # not in everybody's PATH

_CONFIGURATION = """\
# Written by `iodeep server serve` at every start.
daemon off;
pid {nginx}/nginx.pid;
error_log stderr warn;
worker_processes 1;
worker_rlimit_nofile 17000;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    server_tokens off;
    client_body_temp_path {nginx}/body;
    proxy_temp_path {nginx}/proxy;
    fastcgi_temp_path {nginx}/fastcgi;
    uwsgi_temp_path {nginx}/uwsgi;
    scgi_temp_path {nginx}/scgi;
    client_header_timeout 10s;  # also of the handshake: who is silent does not keep a connection
    client_body_timeout 20s;    # between two reads: a slow upload goes on
    keepalive_timeout 15s;      # SuperNodes let go of an idle connection after 5 s
    reset_timedout_connection on;
    limit_conn_zone $binary_remote_addr zone=peers:1m;
    limit_conn_log_level info;
    map_hash_bucket_size 2048;  # a key is 288 characters
    map ${header} $caller {{
        default stranger;
        "" nobody;
        include {approved};
    }}
    map $caller$uri $refusal {{
        default "";
        stranger/v1/fleet/activate-node activation;
        ~^(stranger|nobody)/v1/fleet/ call;
    }}
    upstream superlink {{
        server 127.0.0.1:{superlink};
        keepalive 16;
    }}
    server {{
        listen {listen} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.2 TLSv1.3;
        if ($refusal = activation) {{ return 412 '{not_activated}'; }}
        if ($refusal = call) {{ return 401; }}
        # Of one address, where several hospitals may be: a SuperNode makes up to four calls at
        # once, and asks again later where it gets 503.
        limit_conn peers 32;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host localhost;
        proxy_ssl_name localhost;
        proxy_ssl_verify on;
        proxy_ssl_trusted_certificate {ca};
        proxy_read_timeout 300s;
        proxy_buffering off;
        proxy_request_buffering off;  # nothing of a body is written to disk here
        # $uri is what the path means, "..", "//" and "%2e" resolved; that is passed, not what came.
        location = /v1/fleet/push-object {{
            include {room};
            client_max_body_size 32m;  # tensors come in pieces of 5 MiB
            proxy_pass https://superlink$uri;
        }}
        location = /v1/fleet/push-messages {{
            client_max_body_size 1m;   # names the pieces, 137 bytes for a tensor of one
            proxy_pass https://superlink$uri;
        }}
        location ~ "^/v1/fleet/[a-z-]+$" {{
            client_max_body_size 16k;
            proxy_pass https://superlink$uri;
        }}
        location / {{ return 403; }}
    }}
}}
"""
_APPROVED = "approved.conf"
_ROOM = "room.conf"
_NO_ROOM = b"return 507;\n"
_NOT_ACTIVATED = (
    f'{{"code": {ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED}, '
    '"detail": "Failed to activate SuperNode."}'
)
"""What Flower's SuperLink answers, with 412, to an unknown key that asks to be activated."""


def command(home: Home) -> list[str]:
    """What runs nginx, its configuration written. Raises :class:`ConfigError`.

    Whose calls are passed stays as :func:`write_approved` wrote it last.
    """
    document = home.document
    home.nginx.mkdir(parents=True, exist_ok=True)
    for name in (_APPROVED, _ROOM):
        (home.nginx / name).touch(mode=SECRET)
    path = home.nginx / "nginx.conf"
    text = _CONFIGURATION.format(
        nginx=_quoted(home.nginx),
        header="http_" + FLEET_HTTP_PUBLIC_KEY_HEADER.replace("-", "_"),
        approved=_APPROVED,
        room=_ROOM,
        not_activated=_NOT_ACTIVATED,
        superlink=document.loopback.superlink,
        listen=document.listen,
        certificate=_quoted(home.certificate("server")),
        key=_quoted(home.private_key("server")),
        ca=_quoted(home.certificate("ca")),
    )
    path.write_text(text, encoding="utf-8")
    return [_nginx(), "-e", "stderr", "-p", str(home.nginx), "-c", str(path.resolve())]


def write_approved(home: Home, keys: Iterable[bytes]) -> bool:
    """Write whose calls nginx passes, by their keys as Flower encodes them.

    Whether that is another set than before: then nginx has to be told.
    """
    lines = (b'"%s" site;\n' % b64encode(key) for key in sorted(keys))
    return _write_changed(home.nginx / _APPROVED, b"".join(lines))


def write_room(home: Home, *, is_full: bool) -> bool:
    """Write whether nginx refuses tensors (507), as the disk is full; whether that is new."""
    return _write_changed(home.nginx / _ROOM, _NO_ROOM if is_full else b"")


def _write_changed(path: Path, data: bytes) -> bool:
    if path.read_bytes() == data:
        return False
    write_over(path, data, SECRET)
    return True


def _nginx() -> str:
    """The program. Raises :class:`ConfigError` where it is not installed."""
    found = shutil.which("nginx") or shutil.which("nginx", path=_DAEMONS)
    if found is None:
        raise ConfigError(
            "nginx is not installed, which stands between sites and the SuperLink "
            "(apt-get install nginx-light)"
        )
    return found


def _quoted(path: Path) -> str:
    """A path as nginx reads it."""
    text = str(path.resolve())
    if set(text) & set('"{};$\\\n*?['):  # the last three, as it looks for what it includes
        raise ConfigError(f"{text} has a character that nginx does not read in a path")
    return text.replace(" ", "\\ ")
