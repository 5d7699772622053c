"""Changes of safetensors files."""

from safetensors import safe_open
from safetensors.torch import save_file


def change_metadata(path, **values):
    """Replace entries of the metadata of a safetensors file."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        metadata = file.metadata()
    save_file(tensors, path, metadata | values)
