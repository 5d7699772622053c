"""Reads the labels of images from `dataset.json`, as StyleGAN, EDM and R3GAN write and read them.

The format is that of `dataset_tool.py` in NVlabs/stylegan2-ada-pytorch and NVlabs/edm: `{"labels":
[["00000/img00000000.png", 3], ...]}` with a label 0, 1, ... of each image, or `{"labels": null}` if they have none.
"""

import json

from gan.runtime.errors import UserError

MAX_CLASSES = 1_000_000


def parse_labels(content: bytes, file: str) -> dict[str, int]:
    """Return the label of each image by its path relative to the file; an empty dict if they have none.

    Raises UserError, which begins with `file`, if the content has another format.
    """
    try:
        labels = json.loads(content)["labels"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise UserError(f"""{file} is not of the form {{"labels": [["NAME.png", 3], ...]}}; rename it""") from None
    if labels is None:
        return {}
    if not isinstance(labels, list):
        raise UserError(f"{file}: 'labels' must be a list of [name, label], or null")
    found = {}
    for entry in labels:
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
            raise UserError(f"{file}: 'labels' must be a list of [name, label], or null, without {str(entry)[:80]!r}")
        name, label = entry
        if type(label) is not int or not 0 <= label < MAX_CLASSES:
            raise UserError(
                f"{file}: the label of '{name}' must be an integer from 0 to {MAX_CLASSES - 1:,}, not {str(label)[:80]}"
            )
        found[name] = label
    return found
