"""Sphinx: `make docs` builds docs/_build/html, offline."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from rlhf_flow import __version__

project = "rlhf_flow"
author = "the rlhf_flow authors"
copyright = "the rlhf_flow authors, Apache-2.0"
version = release = __version__

extensions = ["myst_parser", "mathml", "generated", "presets", "curves"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "_ext"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
myst_links_external_new_tab = False
nitpicky = True

html_theme = "furo"
html_title = f"rlhf_flow {version}"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_theme_options = {"sidebar_hide_name": False}
html_copy_source = False
html_show_sourcelink = False
pygments_style = "friendly"
pygments_dark_style = "monokai"
