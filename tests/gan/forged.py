"""Files in the cache with a correct checksum and other contents than the program writes."""

import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gan.runtime import signed
from gan.runtime.cache import cache_dir


def get_other_contents(contents: dict[str, Any]) -> Iterator[Any]:
    """Yield contents like these with a missing entry, or with an entry of another type or shape."""
    yield from (None, 5, [], torch.zeros(3), {})
    for name, value in contents.items():
        yield {other: contents[other] for other in contents if other != name}
        for other in (None, 5, [None], torch.zeros(3), torch.tensor(2.5)):
            yield contents | {name: other}
        if isinstance(value, Tensor) and value.dim():
            yield contents | {name: value.to(torch.bfloat16)}
            yield contents | {name: value[None]}
            yield contents | {name: torch.cat([value, value])}
            yield contents | {name: value[:1].expand(10**6, *value.shape[1:])}
            yield contents | {name: value.to_sparse()}
            yield contents | {name: value.to("meta")}
            if value.is_floating_point():
                yield contents | {name: torch.full_like(value, torch.nan)}


def assert_forged_files_are_made_again(path: Path, load: Callable[[], Any]) -> None:
    """Check that `load` makes a file in the cache again, with one line, if its contents are others."""
    name = str(path.relative_to(cache_dir()).with_suffix(""))
    contents, original = signed.load(path, name), path.read_bytes()
    expected = load()
    for other in get_other_contents(contents):
        with path.open("wb") as file:
            signed.save(other, file, name)
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter("always")
            assert load() == expected
        lines = [line for warning in shown if "sparse" not in (line := str(warning.message))]  # a warning of PyTorch
        (line,) = lines  # which may name the images that the contents no longer describe
        assert re.fullmatch(rf"{path.parent}/.* in the cache cannot be used \(.+\); making it again", line)
        assert path.read_bytes() == original
