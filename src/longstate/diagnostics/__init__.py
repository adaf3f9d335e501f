"""Diagnostics: the laws that every layer obeys, and layers as the filters of control theory."""

from longstate.diagnostics.control import SCIPY_METHODS as SCIPY_METHODS
from longstate.diagnostics.control import continuous_system as continuous_system
from longstate.diagnostics.control import discrete_system as discrete_system
from longstate.diagnostics.control import from_state_space as from_state_space
from longstate.diagnostics.fixed_system import FixedSystem as FixedSystem
from longstate.diagnostics.fixed_system import HeldSystem as HeldSystem
from longstate.diagnostics.laws import LawViolation as LawViolation
from longstate.diagnostics.laws import Measurement as Measurement
from longstate.diagnostics.laws import check_layer as check_layer
from longstate.diagnostics.response import TimeConstants as TimeConstants
from longstate.diagnostics.response import frequency_response as frequency_response
from longstate.diagnostics.response import poles as poles
from longstate.diagnostics.response import time_constants as time_constants
