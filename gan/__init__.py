"""Training of GANs: config -> build -> loop -> metrics -> run folder."""

import os

# Threads of PyTorch's CPU kernels that wait for each other by spinning starve each other as soon as anything else wants
# a core: steps then take ten times as long. Takes effect when set before torch is imported, as by the commands.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
