"""Results of the GPU check: lines of a file that survive any crash, and the tables made from them."""

import json
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

END = "stage"
"""Name of the result that says how a stage ended"""
NOT_MEASURED = "Not measured yet: `make gpu` on a machine with a GPU writes the tables of this section."


def append(file: Path, stage: str, what: str, values: dict[str, Any]) -> None:
    """Add a result to the file; it is on the disk before this returns. Several processes may write to one file."""
    line = json.dumps({"stage": stage, "what": what, "values": values}, default=str)
    with file.open("a", encoding="utf-8") as lines:
        lines.write(f"\n{line}\n")  # begins with a line break, in case a killed process left half a line
        lines.flush()
        os.fsync(lines.fileno())


def collect(file: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the results in the file by stage and name. Of several with the same name, the last counts."""
    stages: dict[str, dict[str, dict[str, Any]]] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            result = json.loads(line)
            stages.setdefault(result["stage"], {})[result["what"]] = result["values"]
        except json.JSONDecodeError:
            continue  # blank, or cut off when its process was killed
    return stages


def write_json(file: Path, name: str, stages: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Write results as the file of a GPU, and return the stages in it.

    Stages that are in the file already are kept if they were not run again, or if that run measured nothing.
    """
    earlier = json.loads(file.read_text(encoding="utf-8"))["stages"] if file.exists() else {}
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".part")
    stages = earlier | {
        stage: results for stage, results in stages.items() if stage not in earlier or set(results) - {END}
    }
    partial.write_text(json.dumps({"gpu": name, "stages": stages}, indent=1) + "\n", encoding="utf-8")
    partial.replace(file)
    return stages


def file_name(gpu: str) -> str:
    """Return the name of the JSON file of a GPU: "NVIDIA H100 80GB HBM3" -> "nvidia-h100-80gb-hbm3.json"."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-") + ".json"


def format_page(folder: Path) -> str:
    """Return the tables of all JSON files in a folder as Markdown, or a sentence that says that there are none."""
    measured = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]
    return "\n\n".join(format_tables(**results) for results in measured) or NOT_MEASURED


def format_tables(gpu: str, stages: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Return the results of one GPU as Markdown: a heading, and for each stage a line and a table or several."""
    parts = [f"### {gpu}"]
    for stage, results in stages.items():
        end = results.get(END)
        facts = "" if end is None else f" ({end['ended']}, {end['seconds']:.0f} s{_format_revision(end)})"
        parts.append(f"**{stage}**{facts}")
        for keys, rows in _group_by_keys(results):
            table = [["", *keys], ["---", *["--:"] * len(keys)]]
            table += [[what, *(_format(values[key]) for key in keys)] for what, values in rows]
            parts.append("\n".join(f"| {' | '.join(row)} |" for row in table))
    return "\n\n".join(parts)


def _format_revision(end: dict[str, Any]) -> str:
    """Return the abbreviated revision of the code that a stage ran."""
    name, dirty, _ = end.get("revision", "").partition("-dirty")
    return f", revision {name[:7]}{dirty}" if name else ""


def _group_by_keys(results: dict[str, dict[str, Any]]) -> Iterable[tuple[tuple[str, ...], list]]:
    """Return the results that have the same columns together, in the order of their first rows."""
    groups: dict[tuple[str, ...], list] = {}
    for what, values in results.items():
        if what == END:
            continue
        groups.setdefault(tuple(values), []).append((what, values))
    return groups.items()


def _format(value: Any) -> str:
    """Return a value as text that fits into a cell of a table."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if value == 0 or not math.isfinite(value):
            return f"{value:g}"
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value).replace("|", "\\|").replace("\n", " ")
