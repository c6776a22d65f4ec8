"""Pictures of a report, for the README.

``python -m tests.pictures results/report.html docs/images``
"""

from __future__ import annotations

import base64
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

from tests.browser import Browser, find

WIDTH, HEIGHT = 1280, 760
SHOWN = {"report": "document.body", "heatmap": "document.querySelector('#match-1')"}
"""Name of a picture to the element whose beginning it shows."""


def main(page: Path, folder: Path) -> None:
    """Write ``report.png``, the first screen, and ``heatmap.png``, the first heat map."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, Browser(find(), Path(scratch)) as browser:
        browser.size(WIDTH, HEIGHT)
        browser.open(page.resolve().as_uri())
        for name, element in SHOWN.items():
            left, top, width, height = browser.run(
                f"(({{ x, y, width, height }}) => [x, y + scrollY, width, height])"
                f"({element}.getBoundingClientRect())"
            )
            clip = {"x": left, "y": top, "width": width, "height": min(height, HEIGHT), "scale": 1}
            found = browser._call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
            picture = Image.open(io.BytesIO(base64.b64decode(found["data"])))
            picture.convert("RGB").quantize(256).save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
