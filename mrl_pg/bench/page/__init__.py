"""A benchmark as a page: one HTML file with charts, their tables, and what they say."""

from mrl_pg.bench.page.document import bench_html

__all__ = ["bench_html"]
