"""html: the evidence of a release as one page that needs nothing but itself.

    sections (what is said) → blocks (tables, figures, facts) → report.html.j2 and report.css (how it looks)

A section is a pure function of the evidence. Figures are SVG inside the page, drawn here and not by a plotting library:
they take the page's colours, light or dark, keep their text legible at any width, and are the same bytes wherever the
page is rendered again to be compared. There is no script. The page forbids its reader's browser to load anything.
"""

from quark_eagle.release.html.page import html_report

__all__ = ["html_report"]
