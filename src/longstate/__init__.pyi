from longstate import data as data
from longstate import diagnostics as diagnostics
from longstate import inference as inference
from longstate import layers as layers
from longstate import models as models
from longstate import ops as ops
from longstate import theory as theory
from longstate import training as training
from longstate._checks import InputError as InputError
from longstate.diagnostics import check_layer as check_layer
from longstate.inference import Session as Session
from longstate.layers import S4 as S4
from longstate.layers import S4D as S4D
from longstate.layers import Bidirectional as Bidirectional
from longstate.layers import CausalLayer as CausalLayer
from longstate.layers import Residual as Residual
from longstate.layers import SequenceLayer as SequenceLayer
from longstate.models import Backbone as Backbone
from longstate.models import BidirectionalClassifier as BidirectionalClassifier
from longstate.models import SequenceClassifier as SequenceClassifier
from longstate.models import SequenceRegressor as SequenceRegressor
from longstate.models import SequenceTagger as SequenceTagger
from longstate.models import load as load
from longstate.models import save as save
from longstate.ops import set_up_allocator as set_up_allocator

__version__: str
