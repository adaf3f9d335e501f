"""The mathematics of state spaces: HiPPO measures, their normal and diagonal forms, discretisation."""

from longstate.theory.diagonal import INITS as INITS
from longstate.theory.diagonal import diagonal as diagonal
from longstate.theory.discretize import RULES as RULES
from longstate.theory.discretize import discretize_dense as discretize_dense
from longstate.theory.discretize import discretize_diagonal as discretize_diagonal
from longstate.theory.discretize import discretize_dplr as discretize_dplr
from longstate.theory.discretize import phi1 as phi1
from longstate.theory.hippo import MEASURES as MEASURES
from longstate.theory.hippo import HippoSystem as HippoSystem
from longstate.theory.hippo import hippo as hippo
from longstate.theory.nplr import NPLR as NPLR
from longstate.theory.nplr import nplr as nplr
from longstate.theory.real_form import RealForm as RealForm
from longstate.theory.real_form import real_form as real_form
from longstate.theory.real_form import real_vector as real_vector
from longstate.theory.truncation import restore_output as restore_output
from longstate.theory.truncation import truncate_output as truncate_output
