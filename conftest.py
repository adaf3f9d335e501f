"""Runs the Python examples of the pages; that of the README trains, and tests/test_readme.py runs it with less."""

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

pytest_collect_file = Sybil(parsers=[PythonCodeBlockParser(), SkipParser()], patterns=["docs/*.md"]).pytest()
