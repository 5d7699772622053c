"""Commands that run before the libraries are imported; in a new interpreter, which has imported none."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROGRAM = """\
import os, sys
from gan.runtime.without_libraries import LibraryNeededError, run_without_libraries

def define():
    global torch, F
    import torch, torch.nn.functional as F
    class Network(torch.nn.Module):
        width: torch.Tensor | None = None
        @torch.no_grad()
        def forward(self, x: None | torch.Tensor = torch.zeros(3)): ...
    assert Network.__mro__ == (Network, object)

def fail():
    raise RuntimeError("an error that the command does not report")

def miss():
    try:
        import gone
    except ModuleNotFoundError:
        return 4

def need():
    raise LibraryNeededError

commands = {
    "returns 3": lambda: 3,
    "misses a library": miss,
    "uses a function": lambda: F.relu(3) and 0,
    "uses a constant": lambda: torch.inf > 0,
    "imports another": lambda: __import__("numpy") and 0,
    "fails": fail,
    "needs a library": need,
    "is killed": lambda: os.abort(),
}
for name, command in commands.items():
    print(name, run_without_libraries(define, command))
print("cannot be defined", run_without_libraries(lambda: [define(), torch.ones(3) + 1], lambda: 3))
assert "torch" not in sys.modules and sys.meta_path[0].__module__ != "gan.runtime.without_libraries"
"""


def test_command_runs_unless_it_needs_a_library():
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == ""
    first, second, *others = done.stdout.splitlines()
    assert (first, second) == ("returns 3 3", "misses a library 4")
    assert len(others) == 7
    assert all(line.endswith(" None") for line in others), others
