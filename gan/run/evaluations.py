"""The file of metrics that were computed after training: `{step: {metric: {seed: value}}}`, and more entries beside.

`std` has the standard deviations of the metrics that are means over parts, in the same form, and `fingerprints` tells
what each value was computed from. `classifier` names the classifier of the metrics of its feature space.
"""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gan.run.lock import LOCK, hold_lock
from gan.run.logging import is_number
from gan.run.start import check_writable
from gan.runtime.damaged import parse_json, read_file
from gan.runtime.errors import UserError
from gan.runtime.files import write_json
from gan.runtime.weights import get_fingerprint
from metrics.estimate import Estimate

RESULTS = "evaluation.json"
"""Name of the file in a run folder"""
CLASSIFIER = "classifier"
STD = "std"
FINGERPRINTS = "fingerprints"
LOCK_TIMEOUT_S = 60  # a process holds the lock only while it adds its results


class Evaluations:
    """A JSON file to which several processes may add results at the same time.

    The constructor raises UserError if the file cannot be written, if it has other contents, and if it has metrics of
    another classifier than `classifier`, NAME@FINGERPRINT; None if no metric needs one.
    """

    def __init__(self, path: Path, classifier: str | None):
        self.path = path
        self._classifier = classifier
        check_writable(path.parent)
        with self._open():
            self._folder = path.parent.stat()

    def find(self, step: str, seed: int, fingerprints: Mapping[str, str]) -> dict[str, float]:
        """Return the metrics of a checkpoint for the latents of a seed that have these fingerprints."""
        with self._open() as results:
            found = {}
            for name, fingerprint in fingerprints.items():
                keys = (step, name, str(seed))
                value, std = _get(results, *keys), _get(results, STD, *keys)
                known = _get(results, FINGERPRINTS, *keys) == fingerprint
                if known and _is_finite(value) and (std is None or _is_finite(std)):
                    found[name] = value if std is None else Estimate(value, std)
            return found

    def add(self, step: str, seed: int, scores: Mapping[str, float], fingerprints: Mapping[str, str]) -> None:
        """Add the metrics of a checkpoint for the latents of a seed. Existing ones are replaced.

        Raises UserError if the folder is no longer where it was.
        """
        folder = self.path.parent
        if not folder.is_dir() or not os.path.samestat(folder.stat(), self._folder):
            raise UserError(f"{folder} was moved or removed; the metrics above are not in {self.path.name}")
        with self._open() as results:
            for name, value in scores.items():
                results.setdefault(step, {}).setdefault(name, {})[str(seed)] = value
                if isinstance(value, Estimate):
                    spreads = results.setdefault(STD, {}).setdefault(step, {})
                    spreads.setdefault(name, {})[str(seed)] = value.std
                else:
                    results.get(STD, {}).get(step, {}).get(name, {}).pop(str(seed), None)
                of_step = results.setdefault(FINGERPRINTS, {}).setdefault(step, {})
                of_step.setdefault(name, {})[str(seed)] = fingerprints[name]
            write_json(self.path, results)

    @contextmanager
    def _open(self) -> Iterator[dict[str, Any]]:
        with hold_lock(self.path.with_name(self.path.name + LOCK), LOCK_TIMEOUT_S):
            results = _read(self.path)
            if self._classifier is not None:
                _record_classifier(results, self.path, self._classifier)
            yield results


def _read(path: Path) -> dict[str, Any]:
    if (data := read_file(path)) is None:
        return {}
    try:
        return parse_json(data, _is_results)
    except ValueError as error:
        raise UserError(f"cannot add results to {path}: {error}; move the file or choose another --out") from None


def _record_classifier(results: dict[str, Any], path: Path, name: str) -> None:
    """Add the name of the metrics' classifier to results. Raises UserError if they have metrics of another one."""
    earlier = results.setdefault(CLASSIFIER, name)
    if get_fingerprint(earlier) != get_fingerprint(name):
        raise UserError(
            f"{path} has metrics of another classifier ({earlier}, not {name}), which cannot be compared with these;"
            " choose another --out"
        )


def _is_results(value: object) -> bool:
    """Return whether a value has the form of the results of a run."""
    if not isinstance(value, dict):
        return False
    rest = {name: child for name, child in value.items() if name not in (STD, CLASSIFIER, FINGERPRINTS)}
    is_named = isinstance(value.get(CLASSIFIER, ""), str)
    return is_named and all(_is_nested(part, 3) for part in (rest, value.get(STD, {}), value.get(FINGERPRINTS, {})))


def _get(value: Any, *keys: str) -> Any:
    """Return an entry of nested dicts, or None if there is none."""
    *outer, last = keys
    for key in outer:
        value = value.get(key, {})
    return value.get(last)


def _is_finite(value: Any) -> bool:
    return value is not None and is_number(value) and math.isfinite(value)


def _is_nested(value: object, levels: int) -> bool:
    """Return whether a value consists of `levels` levels of dicts."""
    if levels == 0:
        return not isinstance(value, dict)
    return isinstance(value, dict) and all(_is_nested(child, levels - 1) for child in value.values())
