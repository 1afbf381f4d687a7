"""Screenshots of a report for the documentation, by Chromium: ``python docs/screenshots.py``."""

from __future__ import annotations

import base64
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent / "tests"))

from browser import MISSING, Browser, find_browser  # noqa: E402

REPORT = DOCS / "audits" / "fashion_mnist_robust.html"
WIDTH = 1040
SHOTS = {"report": ("h1", "proof"), "report_distance": ("distance", "power")}  # from one element to before another
TOP = "(document.getElementById({0!r}) || document.querySelector({0!r})).getBoundingClientRect().top + scrollY"


def main() -> int:
    """Take them, and return an exit code."""
    path = find_browser()
    if path is None:
        print(f"error: {MISSING}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(path, Path(profile))
        try:
            browser.open(REPORT, width=WIDTH)
            for name, (first, after) in SHOTS.items():
                top, end = (browser.evaluate(TOP.format(element)) - 24 for element in (first, after))
                clip = {"x": 0, "y": max(0, top), "width": WIDTH, "height": end - max(0, top), "scale": 1}
                taken = browser.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
                image = Image.open(io.BytesIO(base64.b64decode(taken["data"])))
                image.convert("P", palette=Image.Palette.ADAPTIVE, colors=64).save(DOCS / f"{name}.png", optimize=True)
                print(DOCS / f"{name}.png")
        finally:
            browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
