"""The ensembles of `make bench-peers`, each a function of the batch: networks by name, and an example input.

Weights are random and from fixed seeds: nothing is downloaded, and latencies do not depend on values.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))  # lanes import this module, too

from bench_overhead import STEPS, WIDTH, networks  # noqa: E402

Networks = Mapping[str, nn.Module]
Ensemble = tuple[Networks, Any]
TOKENS = 64


def _cells_of_quickstart() -> None:
    """Have the quickstart's networks here as they are written there: its cell of definitions, under this module."""
    notebook = json.loads((ROOT / "notebooks" / "quickstart.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    exec(next(cell for cell in cells if "class RowsAndColumns" in cell), globals())


_cells_of_quickstart()


class Logits(nn.Module):
    """A network of `transformers` with one image in and one tensor out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:  # [B, 3, H, W] -> [B, classes]
        """The logits."""
        return self.network(pixel_values=pixel_values).logits


class TextLogits(nn.Module):
    """An encoder of `transformers` that is called by keyword."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:  # [B, T] -> [B, classes]
        """The logits."""
        return self.network(input_ids=input_ids, attention_mask=attention_mask).logits


class Trees(nn.Module):
    """Gradient-boosted trees of scikit-learn as a network without parameters."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        import numpy as np
        from sklearn.ensemble import HistGradientBoostingClassifier

        random = np.random.default_rng(0)
        x = random.normal(size=(4000, features)).astype(np.float32)
        y = (x[:, :classes] + 0.3 * random.normal(size=(4000, classes))).argmax(1)
        self.estimator = HistGradientBoostingClassifier(max_iter=60, random_state=0).fit(x, y)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, features] -> [B, classes]
        """The probabilities of classes."""
        return torch.from_numpy(self.estimator.predict_proba(x.detach().cpu().numpy())).to(torch.float32)


def quickstart(batch: int) -> Ensemble:
    """The five small networks of notebooks/quickstart.ipynb, untrained."""
    named = ("make_small_cnn", "make_deep_cnn", "make_mlp", "RowsAndColumns", "make_wide")
    return {name.removeprefix("make_"): globals()[name]() for name in named}, torch.randn(batch, 1, 8, 8)


def vision(batch: int) -> Ensemble:
    """Five networks for images of 224 x 224, from configurations of `transformers`."""
    import transformers as hub

    resnet = hub.ResNetConfig(
        embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic", num_labels=1000
    )
    regnet = hub.RegNetConfig(
        embedding_size=32,
        hidden_sizes=[48, 104, 208, 440],
        depths=[1, 3, 6, 6],
        groups_width=8,
        layer_type="y",
        num_labels=1000,
    )
    vit = hub.ViTConfig(
        hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768, num_labels=1000
    )
    convnext = hub.ConvNextConfig(hidden_sizes=[40, 80, 160, 320], depths=[2, 2, 6, 2], num_labels=1000)
    made = {
        "resnet18": hub.ResNetForImageClassification(resnet),
        "mobilenet_v2": hub.MobileNetV2ForImageClassification(hub.MobileNetV2Config(num_labels=1000)),
        "regnet_y_004": hub.RegNetForImageClassification(regnet),
        "vit_tiny": hub.ViTForImageClassification(vit),
        "convnext_atto": hub.ConvNextForImageClassification(convnext),
    }
    return {name: Logits(network) for name, network in made.items()}, torch.randn(batch, 3, 224, 224)


def encoders(batch: int) -> Ensemble:
    """BERT-like encoders of three sizes, called by keyword."""
    import transformers as hub

    sizes = {"tiny": (128, 2, 2), "mini": (256, 4, 4), "small": (512, 4, 8)}
    made = {}
    for name, (width, layers, heads) in sizes.items():
        config = hub.BertConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            num_labels=4,
        )
        made[name] = TextLogits(hub.BertForSequenceClassification(config))
    mask = torch.ones(batch, TOKENS, dtype=torch.int64)
    mask[:, TOKENS * 3 // 4 :] = 0
    return made, {"input_ids": torch.randint(0, 1000, (batch, TOKENS)), "attention_mask": mask}


def four_kinds(batch: int) -> Ensemble:
    """An LSTM, depthwise convolutions, attention and an MLP: no engine is fastest for all."""
    return networks(), torch.randn(batch, STEPS, WIDTH)


def _mlp(features: int, width: int, depth: int, classes: int = 10) -> nn.Module:
    layers: list[nn.Module] = [nn.Linear(features, width), nn.ReLU()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, classes))


def eight_equal(batch: int) -> Ensemble:
    """Eight MLPs of one architecture, as deep ensembles have them."""
    return {f"mlp_{number}": _mlp(256, 1024, 3) for number in range(8)}, torch.randn(batch, 256)


def one_heavy(batch: int) -> Ensemble:
    """One network that takes most of the time, and seven light ones."""
    light: dict[str, nn.Module] = {f"light_{number}": _mlp(256, 128, 2) for number in range(7)}
    return {"heavy": _mlp(256, 2048, 5), **light}, torch.randn(batch, 256)


def trees(batch: int) -> Ensemble:
    """Gradient-boosted trees beside two networks on the same features."""
    return {"trees": Trees(64, 4), "shallow": _mlp(64, 512, 2, 4), "deep": _mlp(64, 256, 8, 4)}, torch.randn(batch, 64)


ENSEMBLES: Mapping[str, Callable[[int], Ensemble]] = {
    "quickstart": quickstart,
    "vision": vision,
    "encoders": encoders,
    "four kinds": four_kinds,
    "eight equal": eight_equal,
    "one heavy": one_heavy,
    "trees": trees,
}
_NEEDS = {"vision": "transformers", "encoders": "transformers", "trees": "sklearn"}


def missing(name: str) -> str:
    """The package that an ensemble needs and that is not installed, or ""."""
    needed = _NEEDS.get(name, "")
    return needed if needed and importlib.util.find_spec(needed) is None else ""


def ensemble(name: str, batch: int) -> Ensemble:
    """The networks and the example of one row; the same every time."""
    torch.manual_seed(0)
    made, example = ENSEMBLES[name](batch)
    return {key: network.eval() for key, network in made.items()}, example
