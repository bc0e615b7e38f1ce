"""Who may associate, by title and address."""

import pytest

from federation.errors import ConfigError
from federation.pacs.dimse.admission import Admission, Caller


@pytest.mark.parametrize(
    ("callers", "title", "host", "admitted"),
    [
        ([], "ANY", "192.0.2.1", True),
        (["CT1"], "CT1", "192.0.2.1", True),
        (["CT1"], "CT2", "192.0.2.1", False),
        (["CT1"], "ct1", "192.0.2.1", False),
        (["CT1@10.1.0.0/16"], "CT1", "10.1.255.7", True),
        (["CT1@10.1.0.0/16"], "CT1", "10.2.0.7", False),
        (["CT1@10.1.0.0/16", "CT2@10.2.0.0/16"], "CT1", "10.2.0.7", False),
        (["CT1@10.1.0.0/16", "CT2@10.2.0.0/16"], "CT2", "10.2.0.7", True),
        (["*@10.1.0.7"], "ANY", "10.1.0.7", True),
        (["*@10.1.0.7"], "ANY", "10.1.0.8", False),
        (["*@10.1.0.0/16"], "ANY", "::ffff:10.1.0.7", True),
        (["*@2001:db8::/32"], "ANY", "2001:db8::7", True),
        (["*@fe80::/10"], "ANY", "fe80::7%eth0", True),
        (["*@2001:db8::/32"], "ANY", "10.1.0.7", False),
        (["A B@10.1.0.7"], "A B", "10.1.0.7", True),
    ],
)
def test_titles_and_addresses_belong_together(
    callers: list[str], title: str, host: str, admitted: bool
) -> None:
    admission = Admission.of(map(Caller.parse, callers))
    assert admission.admits(title, host) == admitted


def test_an_address_is_known_if_anyone_may_come_from_there() -> None:
    admission = Admission.of(map(Caller.parse, ["CT1@10.1.0.0/16", "CT2@10.2.0.7"]))
    assert admission.knows_address("10.2.0.7")
    assert not admission.knows_address("10.2.0.8")
    assert Admission.of([Caller.parse("CT1")]).knows_address("10.2.0.8")


@pytest.mark.parametrize(
    "text", ["", "CT1@", "CT1@10.1.0.7/16", "CT1@host", "@10.1.0.7", "SEVENTEENLETTERSS", "A\\B"]
)
def test_what_names_no_caller_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        Caller.parse(text)
