"""Settings of the documentation site; `tools/docs.py` puts the pages together and builds it."""

from __future__ import annotations

from esen_lab import __version__

project = "esen_lab"
author = "the authors of esen_lab"
version = release = __version__
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
suppress_warnings: list[str] = []  # none: `make docs` makes every warning an error

myst_heading_anchors = 4  # links name headings as they do on a code host
myst_enable_extensions = ["colon_fence"]

default_role = "code"  # docstrings write `names` with single quotes
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"esen_lab {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
templates_path: list[str] = []
