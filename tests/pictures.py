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

WIDTH, EDGE = 1280, 16
SHOWN = {
    "report": ("document.body", 640),
    "heatmap": ("document.querySelector('#match-1')", 716),
}
"""Name of a picture to the element whose beginning it shows, and so many pixels of it."""


def main(page: Path, folder: Path) -> None:
    """Write ``report.png``, the first screen, and ``heatmap.png``, the first heat map."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, Browser(find(), Path(scratch)) as browser:
        browser.size(WIDTH)
        browser.open(page.resolve().as_uri())
        for name, (element, most) in SHOWN.items():
            left, top, width, height = browser.run(
                f"(({{ x, y, width, height }}) => [x, y + scrollY, width, height])"
                f"({element}.getBoundingClientRect())"
            )
            left, width = max(0, left - EDGE), min(WIDTH, width + 2 * EDGE)
            clip = {"x": left, "y": top, "width": width, "height": min(height, most), "scale": 1}
            found = browser._call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
            picture = Image.open(io.BytesIO(base64.b64decode(found["data"])))
            picture.convert("RGB").quantize(256).save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
