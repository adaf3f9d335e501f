"""The laws that every layer obeys, as functions that users can run on their own layers."""

from longstate.diagnostics.laws.check import check_layer as check_layer
from longstate.diagnostics.laws.dtypes import check_dtype_and_device as check_dtype_and_device
from longstate.diagnostics.laws.gradients import check_causality as check_causality
from longstate.diagnostics.laws.gradients import check_gradients as check_gradients
from longstate.diagnostics.laws.gradients import check_gradients_of_rows as check_gradients_of_rows
from longstate.diagnostics.laws.grids import check_axis_rates as check_axis_rates
from longstate.diagnostics.laws.grids import check_grid_layer as check_grid_layer
from longstate.diagnostics.laws.irregular import check_gradients_of_rate as check_gradients_of_rate
from longstate.diagnostics.laws.irregular import check_irregular_rate as check_irregular_rate
from longstate.diagnostics.laws.irregular import check_substeps as check_substeps
from longstate.diagnostics.laws.programs import check_compile as check_compile
from longstate.diagnostics.laws.programs import check_copies as check_copies
from longstate.diagnostics.laws.programs import check_export as check_export
from longstate.diagnostics.laws.purity import check_purity as check_purity
from longstate.diagnostics.laws.purity import check_training_statistics as check_training_statistics
from longstate.diagnostics.laws.rows import check_packed_rows as check_packed_rows
from longstate.diagnostics.laws.rows import check_padded_rows as check_padded_rows
from longstate.diagnostics.laws.rows import check_rows_do_not_interact as check_rows_do_not_interact
from longstate.diagnostics.laws.trial import LawViolation as LawViolation
from longstate.diagnostics.laws.trial import Measurement as Measurement
from longstate.diagnostics.laws.trial import relative_difference as relative_difference
from longstate.diagnostics.laws.views import check_parallel_equals_stepped as check_parallel_equals_stepped
from longstate.diagnostics.laws.views import check_rate as check_rate
from longstate.diagnostics.laws.views import check_running_decision as check_running_decision
from longstate.diagnostics.laws.views import check_whole_equals_chunked as check_whole_equals_chunked
