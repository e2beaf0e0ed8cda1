"""Settings of the documentation site, built by `make docs`."""

import re
import tomllib
from pathlib import Path

_PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = _PROJECT["name"]
release = _PROJECT["version"]
project_copyright = "the contributors"
extensions = ["myst_parser"]
exclude_patterns = ["_build", "systemd"]
templates_path = ["_templates"]
nitpicky = True

# Anchors of headings, as GitHub makes them, so that links work there and in the site.
myst_heading_anchors = 4

html_theme = "shibuya"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"accent_color": "blue", "show_ai_links": False}


def _add_navigation(app, docname, source):
    """Derive the site's navigation from the headings and links of the index, which GitHub shows as they are."""
    if docname != "index":
        return
    for heading, links in re.findall(r"^## (.*)\n\n((?:- .*\n)+)", source[0], flags=re.MULTILINE):
        pages = "\n".join(re.findall(r"\]\((.*?)\.md\)", links))
        source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {heading}\n\n{pages}\n```\n"


def setup(app):
    """Register the navigation with Sphinx."""
    app.connect("source-read", _add_navigation)
