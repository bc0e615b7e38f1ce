"""docs/models.md: what stands there as typed is typed again, beside `iodeep pacs serve`."""

import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.federation.networks.documents import document
from tests.test_original_commands import original
from tests.typed import commands, read_page

ROOT = Path(__file__).parents[1]
IODEEP = Path(sys.executable).with_name("iodeep")


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[str]:
    """The address of `iodeep pacs serve`, which prints it."""
    served = subprocess.Popen(
        [IODEEP, "pacs", "serve", tmp_path / "archive", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert served.stdout is not None
    yield served.stdout.readline().strip()
    served.send_signal(signal.SIGINT)
    served.wait(timeout=30)


def test_every_model_command_is_in_the_document_and_works_as_typed(
    tmp_path: Path, pacs: str
) -> None:
    every = [typed.command for typed in commands(read_page("models.md"))]
    typed = [words for words in every if words.startswith("iodeep ")]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    known = set(re.findall(r"iodeep model [a-z]+", readme))
    alone = [one.command for one in commands(read_page("alone.md"))]
    assert {" ".join(words.split()[:3]) for words in (*typed, *alone)} >= known

    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    layers = document(
        ["cnn2d"], {"input_shape0": 8, "input_shape1": 8, "input_shape2": 3},
        convolutional={"cn1": 2}, kernel={"kernel1": 3},
    )  # fmt: skip
    _an_original(tmp_path / "unet_mri_head.dcm", layers.arguments)
    for words in typed:
        line = words.replace("$PACS", pacs).replace("$LINE", "MR/hippocampus/-/unet")
        done = subprocess.run(
            [IODEEP, *shlex.split(line)[1:]],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{words}\n{done.stderr}"


def _an_original(path: Path, layers: dict[str, object]) -> None:
    import torch

    state = {"0.weight": torch.zeros(2, 3, 3, 3), "0.bias": torch.zeros(2)}
    original(path, layers, state, name=path.stem)
