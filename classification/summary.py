"""The tables printed at the end of a classifier's run."""

import math
from collections.abc import Mapping

from classification.config import AttackConfig
from classification.corruptions import CORRUPTIONS, SEVERITIES
from gan.run.summary import format_table

MASKED_GRADIENTS = (
    "The accuracy under PGD is significantly higher than under FGSM: gradients are masked (Athalye et al., ICML 2018), "
    "and the accuracy under attack does not measure robustness."
)


def format_accuracies(numbers: Mapping[str, float], attack: AttackConfig, count: int) -> str:
    """Return tables of the accuracies by tag on `count` test images, with a note if gradients are masked."""
    fgsm_tag, pgd_tag = attack_tags(attack)
    starts = f", {attack.restarts} starts" if attack.restarts > 1 else ""
    rows = {
        "validation images": "metrics/accuracy_validation",
        "test images": "metrics/accuracy_test",
        f"FGSM, eps {attack.eps:g}/255": fgsm_tag,
        f"PGD, eps {attack.eps:g}/255, {attack.iterations} steps of {attack.step:g}/255{starts}": pgd_tag,
    }
    table = [("accuracy (%)", ""), *((name, f"{numbers[tag]:.1f}") for name, tag in rows.items() if tag in numbers)]
    tables = [format_table(table)]
    names = [name for name in CORRUPTIONS if f"metrics/accuracy_{name}" in numbers]
    if names:
        header = ("corrupted, by severity (%)", *map(str, SEVERITIES), "mean")
        body = [
            (name, *(f"{numbers[tag]:.1f}" for tag in (*_severity_tags(name), f"metrics/accuracy_{name}")))
            for name in names
        ]
        tables.append(format_table([header, *body]))
    if masks_gradients(numbers[fgsm_tag], numbers[pgd_tag], count):
        tables.append(MASKED_GRADIENTS)
    return "\n\n".join(tables)


def attack_tags(options: AttackConfig) -> tuple[str, str]:
    """Return the tags of the accuracies under FGSM and PGD; they include eps, iterations and restarts."""
    eps = f"{options.eps:g}"
    return f"metrics/accuracy_fgsm{eps}", f"metrics/accuracy_pgd{eps}_{options.iterations}x{options.restarts}"


def masks_gradients(fgsm: float, pgd: float, count: int) -> bool:
    """Return whether the accuracy (%) under PGD exceeds that under FGSM by more than two of its standard errors.

    With the same eps and enough steps PGD is the stronger attack, unless gradients are masked.
    """
    fraction = pgd / 100
    return pgd - fgsm > 200 * math.sqrt(fraction * (1 - fraction) / count)


def _severity_tags(name: str) -> list[str]:
    return [f"corruptions/{name}/{severity}" for severity in SEVERITIES]
