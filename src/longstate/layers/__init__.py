"""The layers: the protocol in `base`, then one file a published layer."""

from longstate.layers.base import SLOW as SLOW
from longstate.layers.base import CausalLayer as CausalLayer
from longstate.layers.base import OptimizerRule as OptimizerRule
from longstate.layers.base import SequenceLayer as SequenceLayer
from longstate.layers.base import register_state as register_state
from longstate.layers.bidirectional import Bidirectional as Bidirectional
from longstate.layers.lti import LTILayer as LTILayer
from longstate.layers.lti import LTIState as LTIState
from longstate.layers.norm import build_norm as build_norm
from longstate.layers.pointwise import GatedOutput as GatedOutput
from longstate.layers.residual import BidirectionalResidual as BidirectionalResidual
from longstate.layers.residual import Residual as Residual
from longstate.layers.s4 import S4 as S4
from longstate.layers.s4d import S4D as S4D
