"""The sequence operators: each one file, with its equation, a reference and its fast paths."""

from longstate.ops._dispatch import explain as explain
from longstate.ops.allocator import set_up_allocator as set_up_allocator
from longstate.ops.cauchy import cauchy as cauchy
from longstate.ops.cauchy import cauchy_kernel as cauchy_kernel
from longstate.ops.fft_conv import fft_conv as fft_conv
from longstate.ops.linear_scan import linear_scan as linear_scan
from longstate.ops.lti_kernel import lti_kernel as lti_kernel
from longstate.ops.lti_scan import lti_conv as lti_conv
from longstate.ops.lti_scan import lti_scan as lti_scan
from longstate.ops.lti_step import StepConstants as StepConstants
from longstate.ops.lti_step import lti_constants as lti_constants
from longstate.ops.lti_step import lti_step as lti_step
from longstate.ops.lti_system import LTISystem as LTISystem
from longstate.ops.mimo_scan import mimo_scan as mimo_scan
from longstate.ops.mimo_step import MIMOConstants as MIMOConstants
from longstate.ops.mimo_step import mimo_constants as mimo_constants
from longstate.ops.mimo_step import mimo_step as mimo_step
from longstate.ops.mimo_system import MIMOSystem as MIMOSystem
from longstate.ops.selective_scan import selective_scan as selective_scan
from longstate.ops.selective_scan import selective_scan_step as selective_scan_step
from longstate.ops.ssd import ssd as ssd
from longstate.ops.ssd import ssd_step as ssd_step
