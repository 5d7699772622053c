import sys

import pytest

SCRIPT = """
import resource, torch
from gan.runtime.allocator import keep_freed_memory
kept = {keep} and keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(2**20 * k) for k in range(10, 14)]  # at least 40 MiB: not kept by default
    del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(8):
    faults()  # warm up
print(int(kept), faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_memory_is_reused_without_page_faults(python):
    kept, faults = {}, {}
    for keep in (False, True):
        done = python.run("-c", SCRIPT.format(keep=keep))
        assert done.returncode == 0, done.stderr
        kept[keep], faults[keep] = map(int, done.stdout.split())
    if not kept[True]:
        pytest.skip("not glibc")
    assert faults[True] < faults[False] / 10
