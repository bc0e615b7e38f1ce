"""Made-up cases and networks that train in a moment."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clients.training import Segmenter
from federation.config import TrainingTable
from federation.iodeep.architecture import Architecture
from federation.networks import build_network


@dataclass(frozen=True, kw_only=True)
class Case:
    image: Tensor
    label: Tensor


def boxes(number: int, *, seed: int = 0) -> list[Case]:
    """Noise (1, 8, 12, 8) with a brighter and a darker box, labelled 1 and 2."""
    generator = torch.Generator().manual_seed(seed)
    cases = []
    for _ in range(number):
        image = 0.1 * torch.randn((1, 8, 12, 8), generator=generator)
        label = torch.zeros((1, 8, 12, 8), dtype=torch.uint8)
        z, y, x = torch.randint(0, 4, (3,), generator=generator).tolist()
        label[:, z : z + 4, y : y + 4, x : x + 4] = 1
        label[:, z : z + 4, y + 4 : y + 8, x : x + 4] = 2
        image += 2.0 * (label == 1) - 2.0 * (label == 2)
        cases.append(Case(image=image, label=label))
    return cases


def tiny_network(seed: int = 0, *, dropout: float = 0.0) -> nn.Module:
    arguments = {"out_channels": 3, "channels": [4, 8], "strides": [2], "dropout": dropout}
    return build_network(Architecture(network="monai.UNet", arguments=arguments), seed=seed)


def tiny_trainer(network: nn.Module | None = None, **settings: object) -> Segmenter:
    table = TrainingTable.model_validate({"optimizer": {"lr": 0.02}, **settings})
    return Segmenter(network or tiny_network(), table, labels=2, device="cpu")
