"""What a fine-tuning has come to, in the site's work folder, so that it can go on after a kill."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from federation.errors import DataError
from federation.whole import SECRET, make_private, write_over

_HISTORY, _LAST, _BEST = "history.json", "last.safetensors", "best.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """One pass over the training cases: mean loss, and the headline metric on validation."""

    number: int
    loss: float
    validation: float


class Progress:
    """The folder of one fine-tuning: its epochs, the last weights and the best.

    The history is replaced last, so a kill leaves that of the epoch before.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            make_private(folder)
        except OSError as error:
            raise DataError(f"{folder} cannot be made: {error.strerror}") from error
        self.epochs = self._read()

    @property
    def best(self) -> Epoch | None:
        """The epoch with the best validation, the first of equals."""
        return max(self.epochs, key=lambda epoch: epoch.validation, default=None)

    def last_weights(self) -> dict[str, Tensor]:
        return load_file(self._folder / f"{len(self.epochs)}-{_LAST}")

    def best_weights(self) -> dict[str, Tensor]:
        assert self.best is not None
        return load_file(self._folder / f"{self.best.number}-{_BEST}")

    def add(self, epoch: Epoch, weights: Mapping[str, Tensor]) -> None:
        """Keep an epoch and the weights after it."""
        before = self.best
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        self._write(plain, f"{epoch.number}-{_LAST}")
        if before is None or epoch.validation > before.validation:
            self._write(plain, f"{epoch.number}-{_BEST}")
        self.epochs = (*self.epochs, epoch)
        history = json.dumps([asdict(one) for one in self.epochs])
        write_over(self._folder / _HISTORY, history.encode(), SECRET)
        self._remove_others()

    def _write(self, weights: dict[str, Tensor], name: str) -> None:
        unfinished = self._folder / f"{name}.part"
        try:
            save_file(weights, unfinished)
        except (OSError, SafetensorError) as error:
            raise DataError(
                f"the weights cannot be kept in {self._folder}: {error}; free space there"
            ) from error
        unfinished.replace(self._folder / name)

    def _read(self) -> tuple[Epoch, ...]:
        """The epochs until now; none where anything of them is missing or damaged."""
        try:
            entries = json.loads((self._folder / _HISTORY).read_bytes())
            epochs = tuple(Epoch(**entry) for entry in entries)
            if [one.number for one in epochs] != list(range(1, len(epochs) + 1)):
                return ()
            best = max(epochs, key=lambda epoch: epoch.validation)
            for name in (f"{len(epochs)}-{_LAST}", f"{best.number}-{_BEST}"):
                load_file(self._folder / name)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            return ()
        return epochs

    def _remove_others(self) -> None:
        assert self.best is not None
        kept = {f"{len(self.epochs)}-{_LAST}", f"{self.best.number}-{_BEST}"}
        for path in self._folder.glob("*.safetensors"):
            if path.name not in kept:
                path.unlink(missing_ok=True)


def on_device(weights: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in weights.items()}
