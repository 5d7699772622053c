"""The chart of training speeds on a GPU, as an SVG file."""

from html import escape
from pathlib import Path
from typing import Any

BARS = {  # stage and result: label
    ("step", "torch-mimicry, fp32"): "torch-mimicry, fp32",
    ("step", "torch-mimicry, tf32"): "torch-mimicry, TF32",
    ("compiled", "spectral, bf16, eager"): "ours, bf16, train.graph=false",
    ("compiled", "spectral, bf16, captured"): "ours, bf16",
    ("compiled", "spectral, bf16, compiled"): "ours, bf16, train.compile=true",
}
WIDTH, LABELS, NUMBERS, ROW, BAR, TITLE = 720, 250, 80, 30, 18, 40


def write_chart(file: Path, gpu: str, stages: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Write a bar for the images/s of each of `BARS` that was measured."""
    found = ((label, stages.get(stage, {}).get(what, {}).get("images/s")) for (stage, what), label in BARS.items())
    rows = [(label, speed) for label, speed in found if speed is not None]
    if rows:
        file.write_text(_draw(f"SNGAN-ResNet 32 on one {gpu}: images/s in training", rows), encoding="utf-8")


def _draw(title: str, rows: list[tuple[str, float]]) -> str:
    height = TITLE + ROW * len(rows) + 10
    scale = (WIDTH - LABELS - NUMBERS) / max(speed for _, speed in rows)
    box, font = f'viewBox="0 0 {WIDTH} {height}"', 'font-family="sans-serif" font-size="14"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} {font}>',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="10" y="24" font-weight="bold">{escape(title)}</text>',
    ]
    for row, (label, speed) in enumerate(rows):
        top = TITLE + ROW * row
        color = "#3f51b5" if label.startswith("ours") else "#9e9e9e"
        parts += [
            f'<text x="{LABELS - 10}" y="{top + 14}" text-anchor="end">{escape(label)}</text>',
            f'<rect x="{LABELS}" y="{top}" width="{speed * scale:.1f}" height="{BAR}" fill="{color}"/>',
            f'<text x="{LABELS + speed * scale + 8:.1f}" y="{top + 14}">{speed:,.0f}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])
