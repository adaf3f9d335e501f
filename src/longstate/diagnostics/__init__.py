"""Diagnostics: the laws that every layer obeys."""

from longstate.diagnostics.laws import LawViolation as LawViolation
from longstate.diagnostics.laws import Measurement as Measurement
from longstate.diagnostics.laws import check_layer as check_layer
