"""Networks and training step of torch-mimicry, loaded from source files, because its __init__ imports TensorFlow."""

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path

import torch

MISSING = "torch-mimicry is not installed; run: pip install --no-deps torch-mimicry"


def mimicry_step(net: str, batch: int, n_critic: int, device: torch.device) -> Callable[[], None]:
    """Return a function that runs one iteration like torch-mimicry's Trainer, on random 32x32 images.

    `net` is sngan or dcgan. As in torch-mimicry, Adam has learning rate 2e-4 and betas (0, 0.9), and one G step follows
    n_critic D steps.
    """
    spec = importlib.util.find_spec("torch_mimicry")
    if spec is None:
        raise SystemExit(MISSING)
    folder = Path(spec.origin).parent
    for name in ("torch_mimicry", "torch_mimicry.nets", f"torch_mimicry.nets.{net}"):
        package = types.ModuleType(name)
        package.__path__ = [str(folder.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package
    nets = importlib.import_module(f"torch_mimicry.nets.{net}.{net}_32")
    prefix = net.upper()
    G = getattr(nets, f"{prefix}Generator32")().to(device).train()
    D = getattr(nets, f"{prefix}Discriminator32")().to(device).train()
    optimizer_G, optimizer_D = (torch.optim.Adam(n.parameters(), 2e-4, betas=(0.0, 0.9)) for n in (G, D))
    images = torch.rand(n_critic, batch, 3, 32, 32, device=device) * 2 - 1
    labels = torch.zeros(batch, dtype=torch.int64, device=device)
    log = types.SimpleNamespace(add_metric=lambda *args, **options: None)

    def step() -> None:
        for x_real in images:
            D.train_step((x_real, labels), netG=G, optD=optimizer_D, log_data=log, device=device)
        G.train_step((images[-1], labels), netD=D, optG=optimizer_G, log_data=log, device=device)

    return step
