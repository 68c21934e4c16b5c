"""The report of an evaluation: a page to look at, files for a paper, CSV."""

from mrl_pg.report.document import report_html
from mrl_pg.report.notebook import notebook_html
from mrl_pg.report.page import environment
from mrl_pg.report.paper import save_figures
from mrl_pg.report.table import to_csv

__all__ = ["environment", "notebook_html", "report_html", "save_figures", "to_csv"]
