"""Bytes as people write them."""

import pytest

from federation.errors import ConfigError
from federation.sizes import parse_size, size_text


@pytest.mark.parametrize(
    ("text", "count"),
    [("20 GB", 20 * 10**9), ("1.5mb", 1_500_000), ("512", 512), (" 3 TB ", 3 * 10**12), ("0", 0)],
)
def test_a_size_is_read(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "GB", "-1 GB", "20 GiB", "1e9", "20 GB!", "٣ GB", "inf"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="20 GB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (124_000_488, "124 MB"), (1_239_999_999, "1.24 GB"),
     (999_999_999, "1 GB"), (5_000 * 10**12, "5,000 TB")],
)  # fmt: skip
def test_a_size_is_written(count: int, text: str) -> None:
    assert size_text(count) == text
