"""nginx in front of the SuperLink: TLS, and nothing but what SuperNodes ask.

The SuperLink serves its Fleet, Control and Runtime APIs at one port, and only the first knows who
is asking. Whoever reaches the others can start runs and read tensors. nginx passes the calls of
the first, by their exact form, and answers 403 to all else.
"""

import shutil
from pathlib import Path

from federation.errors import ConfigError
from server.aggregator.home import Home

_DAEMONS = "/usr/sbin"  # not in everybody's PATH

_CONFIGURATION = """\
# Written by `iodeep server serve` at every start.
daemon off;
pid {nginx}/nginx.pid;
error_log stderr warn;
worker_processes 1;
events {{ worker_connections 512; }}
http {{
    access_log off;
    server_tokens off;
    client_body_temp_path {nginx}/body;
    proxy_temp_path {nginx}/proxy;
    fastcgi_temp_path {nginx}/fastcgi;
    uwsgi_temp_path {nginx}/uwsgi;
    scgi_temp_path {nginx}/scgi;
    client_max_body_size 32m;   # Flower sends tensors in pieces of 5 MiB
    client_header_timeout 20s;
    client_body_timeout 60s;
    keepalive_timeout 75s;
    limit_conn_zone $binary_remote_addr zone=peers:1m;
    upstream superlink {{
        server 127.0.0.1:{superlink};
        keepalive 16;
    }}
    server {{
        listen {listen} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.2 TLSv1.3;
        limit_conn peers 64;
        # $uri is what the path means, "..", "//" and "%2e" resolved; that is passed, not what came.
        location ~ "^/v1/fleet/[a-z-]+$" {{
            proxy_pass https://superlink$uri;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host localhost;
            proxy_ssl_name localhost;
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate {ca};
            proxy_read_timeout 300s;
            proxy_buffering off;
            proxy_request_buffering off;  # nothing of a body is written to disk here
        }}
        location / {{ return 403; }}
    }}
}}
"""


def write_configuration(home: Home) -> Path:
    """Write nginx's configuration; returns its path. Raises :class:`ConfigError`."""
    document = home.document
    home.nginx.mkdir(parents=True, exist_ok=True)
    path = home.nginx / "nginx.conf"
    text = _CONFIGURATION.format(
        nginx=_quoted(home.nginx),
        superlink=document.loopback.superlink,
        listen=document.listen,
        certificate=_quoted(home.certificate("server")),
        key=_quoted(home.private_key("server")),
        ca=_quoted(home.certificate("ca")),
    )
    path.write_text(text, encoding="utf-8")
    return path


def nginx() -> str:
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
    if set(text) & set('"{};$\\\n'):
        raise ConfigError(f"{text} has a character that nginx does not read in a path")
    return text.replace(" ", "\\ ")
