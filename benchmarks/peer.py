"""torch-mimicry's nets and training step, from its source alone: its __init__ would import TensorFlow."""

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path

import torch

NEEDS = "torch-mimicry is not there; get its source: pip install --no-deps torch-mimicry"


def mimicry_step(net: str, batch: int, n_critic: int, device: torch.device) -> Callable[[], None]:
    """Return a function that does one iteration as torch-mimicry's Trainer does, on made-up images of side 32.

    `net` is sngan or dcgan. Adam as there: 2e-4, betas (0, 0.9); one G step after n_critic D steps.
    """
    spec = importlib.util.find_spec("torch_mimicry")
    if spec is None:
        raise SystemExit(NEEDS)
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
