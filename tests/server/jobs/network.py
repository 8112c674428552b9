"""A small network that predicts its own noisy outputs, exported for real: `python network.py FOLDER`."""

import sys
from pathlib import Path

import numpy as np
import torch

ROWS = 300


def main(folder: Path) -> None:
    """Write the archive and its data."""
    torch.manual_seed(1)
    network = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    rows = torch.randn(ROWS, 8)
    target = network(rows).detach().numpy() + np.random.default_rng(1).normal(0, 0.01, (ROWS, 1)).astype(np.float32)
    program = torch.export.export(network, (rows[:2],), dynamic_shapes=({0: torch.export.Dim("batch", max=4096)},))
    torch.export.save(program, folder / "price.pt2")
    np.savez(folder / "price.npz", input=rows.numpy(), target=target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
