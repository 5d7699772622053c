"""Arms whose names differ in the last part alone, such as a learning rate: `spectral,lr=1e-3` and `spectral,lr=3e-3`.

The part before the last comma is the family. The last part is the group, if other arms share it, or if it gives another
value for the same key as a shared part: of `a,lr=1`, `b,lr=1` and `b,lr=2`, the last has the group `lr=2`.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean

RATE = "lr="  # how the group of a learning rate begins


def split_arm(arm: str, arms: Sequence[str]) -> tuple[str, str]:
    """Return the family and the group of an arm. An arm without a group is a family of its own."""
    family, _, group = arm.rpartition(",")
    counts = Counter(other.rpartition(",")[2] for other in arms if "," in other)
    key = group.partition("=")[0]
    others = [other.rpartition(",")[2] for other in arms if other.rpartition(",")[0] == family]
    is_group = counts[group] > 1 or any(counts[other] > 1 and other.partition("=")[0] == key for other in others)
    return (family, group) if family and is_group else (arm, "")


def sort_arms(arms: Sequence[str]) -> list[str]:
    """Return the arms by family, in the order of their first arms, and within a family by the number in the group."""
    parts = {arm: split_arm(arm, arms) for arm in arms}
    families = [family for family, _ in parts.values()]
    keys = {arm: (families.index(family), _get_number(group)) for arm, (family, group) in parts.items()}
    return sorted(arms, key=keys.__getitem__)


def choose_best(values: Mapping[str, Sequence[float]], higher: bool) -> list[str]:
    """Return the arm with the best learning rate of each family: of those with the most values, the best mean.

    Arms with other groups, such as amounts of data or noise, are no alternatives: each is returned. Arms without values
    are left out. Without learning rates, the list is empty.
    """
    parts = {arm: split_arm(arm, list(values)) for arm in values if values[arm]}
    if not any(group.startswith(RATE) for _, group in parts.values()):
        return []
    best: dict[str, tuple[int, float, str]] = {}
    for arm, (family, group) in parts.items():
        key, mean = family if group.startswith(RATE) else arm, fmean(values[arm])
        candidate = (len(values[arm]), mean if higher else -mean, arm)
        best[key] = max(best.get(key, candidate), candidate, key=lambda entry: entry[:2])
    return [arm for _, _, arm in best.values()]


def _get_number(group: str) -> float:
    try:
        return float(group.rpartition("=")[2])
    except ValueError:
        return -math.inf if not group else math.inf  # bare names come first, words in their order
