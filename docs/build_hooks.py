"""What the site shows of files outside of docs/: notebooks as they are, figures from the results files."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
OUTSIDE = re.compile(r"\]\(((?:\.\./)*)\.\./(notebooks|experiments)/")


@event_priority(100)  # before the plugin that renders notebooks looks for them
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to outside of docs/, at the path that it has in the repository."""
    linked = [*(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "experiments").glob("*/*.yaml")]
    linked += [path for path in RESULTS.rglob("*") if path.suffix in (".json", ".csv", ".html", ".png")]
    for path in sorted(linked):
        place = path.relative_to(ROOT).as_posix()
        files.append(File(place, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Page, **kwargs: Any) -> str:
    """Fill in what the results files say now, and lead links out of docs/ to where :func:`on_files` put their ends."""
    table = runpy.run_path(str(ROOT / "experiments" / "table.py"))
    for name in ("tables", "speed", "zoo"):
        if f"<!-- {name} -->" in markdown:
            markdown = markdown.replace(f"<!-- {name} -->", table[name]())
    return OUTSIDE.sub(r"](\1\2/", markdown)
