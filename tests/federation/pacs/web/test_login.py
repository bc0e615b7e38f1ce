"""Who is let in at web services, and what is shown to whom."""

from pathlib import Path

import pytest

from federation.errors import ConfigError, PacsError, PacsRefused, PacsUnreachable
from federation.pacs import open_gateway
from federation.pacs.tls import Tls
from tests.federation.pacs.conftest import Make
from tests.federation.pacs.web.web_archive import (
    HERE,
    KEYS,
    QUICK,
    Request,
    WebArchive,
    status,
    web_archive,
)
from tests.peers.certificates import Certificates, Identity


def secret(path: Path, text: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(text)
    return path


def test_login_and_token_are_shown_and_read_anew(three: WebArchive, tmp_path: Path) -> None:
    login = secret(tmp_path / "login", "us er:pä:ss\n")
    token = secret(tmp_path / "token", "first.token==\n")
    with web_archive(three):
        with open_gateway(f"{three.address}?login={login}") as gateway:
            gateway.echo()
        with open_gateway(f"{three.address}?token={token}") as gateway:
            gateway.echo()
            token.write_text("second")
            gateway.echo()
        with open_gateway(three.address) as gateway:
            gateway.echo()
    assert [request.headers["Authorization"] for request in three.seen] == [
        "Basic dXMgZXI6cMOkOnNz", "Bearer first.token==", "Bearer second", None,
    ]  # fmt: skip


@pytest.mark.parametrize("code", [401, 403])
def test_who_is_not_let_in_is_told_which_file_to_look_at(tmp_path: Path, code: int) -> None:
    login = secret(tmp_path / "login", "user:geheim")
    token = secret(tmp_path / "token", "geheim")
    with web_archive(WebArchive(search=status(code))) as archive:
        for option, said in (
            (f"?login={login}", f"who {login} names"),
            (f"?token={token}", f"the token in {token}"),
            ("", "name a file with login=FILE or token=FILE"),
        ):
            with (
                open_gateway(f"{archive.address}{option}", limits=QUICK) as gateway,
                pytest.raises(PacsRefused, match=said) as caught,
            ):
                gateway.echo()
            assert "geheim" not in str(caught.value)
        assert len(archive.seen) == 3  # not asked again


@pytest.mark.parametrize(
    ("option", "text"),
    [("login", "no-colon"), ("login", "two:lines\nmore"), ("token", "two words"), ("token", "")],
)
def test_a_file_that_holds_no_login_or_token_is_refused_and_not_repeated(
    tmp_path: Path, option: str, text: str
) -> None:
    path = secret(tmp_path / "file", text)
    with pytest.raises(ConfigError, match=f"{path} holds no") as caught:
        open_gateway(f"dicomweb+http://127.0.0.1:1?{option}={path}")
    assert not text or text not in str(caught.value)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        open_gateway(f"dicomweb+http://127.0.0.1:1?{option}={path}")


def test_nothing_goes_to_another_host(three: WebArchive, tmp_path: Path, make: Make) -> None:
    login = secret(tmp_path / "login", "user:geheim")
    with web_archive() as other, web_archive(three):
        elsewhere = f"http://127.0.0.1:{other.port}/dicom-web/studies"
        redirect = lambda request: request.reply(307, Location=elsewhere)  # noqa: E731
        three.search = three.store = three.retrieve_instance = redirect
        with open_gateway(f"{three.address}?login={login}") as gateway:
            for act in (
                gateway.echo,
                lambda: gateway.fetch(tmp_path, **HERE, instance="1.2"),
                lambda: gateway.store([make()]),
            ):
                with pytest.raises(PacsError, match=f"to 'http://127.0.0.1:{other.port}'"):
                    act()
            for location in ("//evil@127.0.0.1:1/", "https://127.0.0.1/", "ftp:x", "http://[x/"):
                three.search = lambda request, to=location: request.reply(302, Location=to)
                with pytest.raises(PacsError, match="redirects"):
                    gateway.echo()
        assert other.seen == []


def test_a_redirect_within_the_archive_is_followed_for_a_while(three: WebArchive) -> None:
    def moved(request: Request) -> None:
        if "there" in request.path:
            three._search(request)
        else:
            request.reply(301, Location=request.path.replace("?", "?there=1&"))

    three.search = moved
    with web_archive(three), open_gateway(three.address) as gateway:
        assert len(gateway.find("IMAGE", KEYS)) == 3
        three.search = lambda request: request.reply(302, Location=request.path)
        with pytest.raises(PacsError, match="without end"):
            gateway.echo()


def test_neither_proxy_nor_password_is_taken_from_the_environment(
    three: WebArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = secret(tmp_path / "netrc", "machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with web_archive() as proxy, web_archive(three):
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        with open_gateway(three.address) as gateway:
            gateway.echo()
        assert proxy.seen == []
        assert three.seen[0].headers["Authorization"] is None


# --- TLS -------------------------------------------------------------------------------------


def over_tls(certificates: Certificates, own: Identity, *, ca: Path | None = None) -> Tls:
    return Tls(ca=ca, cert=own.cert, key=own.key)


def test_both_sides_show_their_certificates(
    three: WebArchive, certificates: Certificates, folder: Path
) -> None:
    ours = certificates.client
    context = over_tls(certificates, certificates.server, ca=certificates.ca).server()
    with (
        web_archive(three, context=context),
        open_gateway(
            f"{three.address}?tls={certificates.ca}&cert={ours.cert}&key={ours.key}", limits=QUICK
        ) as gateway,
    ):
        gateway.echo()
        assert len(gateway.fetch(folder, **HERE)) == 3


@pytest.mark.parametrize("case", ["expired", "other CA", "system's CAs", "no client certificate"])
def test_a_certificate_that_is_not_accepted_is_explained(
    certificates: Certificates, case: str
) -> None:
    own = certificates.expired if case == "expired" else certificates.server
    wants_ours = case == "no client certificate"
    trusted = {"other CA": str(certificates.other_ca), "system's CAs": "system"}
    said = {
        "expired": "not valid today",
        "no client certificate": "does not accept our certificate",
    }.get(case, "of no authority that we trust")
    context = over_tls(certificates, own, ca=certificates.ca if wants_ours else None).server()
    with web_archive(context=context) as archive:
        address = f"{archive.address}?tls={trusted.get(case, certificates.ca)}"
        with (
            open_gateway(address, limits=QUICK) as gateway,
            pytest.raises(PacsRefused, match=said),
        ):
            gateway.echo()
        assert archive.seen == []


def test_an_archive_without_tls_is_told_from_one_with(certificates: Certificates) -> None:
    with web_archive() as archive:
        address = archive.address.replace("http:", "https:")
        with (
            open_gateway(f"{address}?tls={certificates.ca}", limits=QUICK) as gateway,
            pytest.raises(PacsRefused, match="does not speak TLS at that port"),
        ):
            gateway.echo()
    context = over_tls(certificates, certificates.server).server()
    with (
        web_archive(context=context) as archive,
        open_gateway(archive.address.replace("https", "http"), limits=QUICK) as gateway,
        pytest.raises(PacsUnreachable),
    ):
        gateway.echo()


@pytest.mark.parametrize("shown", [False, True])
def test_who_may_want_a_certificate_of_ours_is_asked_for_it(
    certificates: Certificates, *, shown: bool
) -> None:
    """nginx lets the handshake pass without one, and answers 400 then."""
    context = over_tls(certificates, certificates.server).server()
    ours = certificates.client
    shows = f"&cert={ours.cert}&key={ours.key}" if shown else ""
    with (
        web_archive(WebArchive(search=status(400)), context=context) as archive,
        open_gateway(f"{archive.address}?tls={certificates.ca}{shows}", limits=QUICK) as gateway,
        pytest.raises(PacsError, match="answered 400") as caught,
    ):
        gateway.echo()
    assert ("wants a certificate of ours" in str(caught.value)) is not shown
