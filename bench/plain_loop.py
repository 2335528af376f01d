"""The training loop of the tutorials, as a script: what our training is measured against.

Eager, fp32, NCHW, `torch.optim.Adam` at 1e-3, batches of 128 from a `DataLoader` with 4 workers
that decode the folder's files anew in every epoch; ToTensor and Normalize, no augmentation. An
image that is not of the network's size is scaled to it and cropped, as the tutorials do.

    python bench/plain_loop.py FOLDER [--epochs 5]

FOLDER has train/ and val/ with a folder of images a class.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import typer
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

if TYPE_CHECKING:
    from bench import networks
else:
    import networks

# Of ImageNet, for pixels from 0 to 1.
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


class Images(Dataset[tuple[Tensor, int]]):
    """The files of a folder of class folders, decoded when they are asked for."""

    def __init__(self, folder: Path, *, resolution: int) -> None:
        self.resolution = resolution
        self.classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
        self.files = [
            (path, label)
            for label, name in enumerate(self.classes)
            for path in sorted((folder / name).iterdir())
        ]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.files[index]
        with Image.open(path) as file:
            image = _resized(file.convert("RGB"), self.resolution)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        return (pixels.float().div(255) - MEAN) / STD, label


def _resized(image: Image.Image, resolution: int) -> Image.Image:
    """Return ``image`` with its shorter side at ``resolution``, cropped to a square."""
    if image.size == (resolution, resolution):
        return image
    scale = resolution / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    left, top = (width - resolution) // 2, (height - resolution) // 2
    scaled = image.resize((width, height), Image.Resampling.BILINEAR)
    return scaled.crop((left, top, left + resolution, top + resolution))


def train_epoch(
    network: nn.Module, loader: DataLoader[tuple[Tensor, int]], optimizer: torch.optim.Optimizer
) -> float:
    """Train on every image once and return the last loss."""
    criterion = nn.CrossEntropyLoss()
    value = 0.0
    network.train()
    for images, labels in loader:
        optimizer.zero_grad()
        loss = criterion(network(images), labels)
        loss.backward()
        optimizer.step()
        value = loss.item()
    return value


@torch.inference_mode()
def accuracy(network: nn.Module, loader: DataLoader[tuple[Tensor, int]]) -> float:
    """Return the part of the images that is classified right."""
    network.eval()
    right = total = 0
    for images, labels in loader:
        right += int((network(images).argmax(1) == labels).sum())
        total += len(labels)
    return right / total


def main(
    folder: Path,
    epochs: int = 5,
    batch_size: int = 128,
    model: str = "mobilenet_v2",
    width_mult: float = 1.0,
    resolution: int = 32,
    workers: int = 4,
    validate: bool = True,
) -> None:
    """Train and print loss and accuracy after every epoch."""
    images = Images(folder / "train", resolution=resolution)
    train = DataLoader(images, batch_size=batch_size, shuffle=True, num_workers=workers)
    held_out = Images(folder / "val", resolution=resolution)
    val = DataLoader(held_out, batch_size=batch_size, num_workers=workers)
    network = networks.build_network(
        model, width_mult=width_mult, resolution=resolution, classes=len(images.classes)
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for epoch in range(1, epochs + 1):
        begun = time.perf_counter()
        loss = train_epoch(network, train, optimizer)
        line = f"epoch {epoch}: loss {loss:.3f}, {time.perf_counter() - begun:.1f} s"
        print(f"{line}, top-1 {accuracy(network, val):.1%}" if validate else line)


if __name__ == "__main__":
    typer.run(main)
