"""Training: the configuration, the run that can be killed and continued, and how good the result is."""

from longstate.training.config import RunConfig as RunConfig
from longstate.training.config import TextTrainingConfig as TextTrainingConfig
from longstate.training.config import TrainingConfig as TrainingConfig
from longstate.training.evaluate import ClassificationEvaluation as ClassificationEvaluation
from longstate.training.evaluate import Evaluation as Evaluation
from longstate.training.evaluate import RegressionEvaluation as RegressionEvaluation
from longstate.training.evaluate import evaluate as evaluate
from longstate.training.evaluate import predict as predict
from longstate.training.evaluate import predict_steps as predict_steps
from longstate.training.evaluate_text import TextEvaluation as TextEvaluation
from longstate.training.evaluate_text import evaluate_text as evaluate_text
from longstate.training.fit import fit as fit
from longstate.training.fit_text import fit_text as fit_text
from longstate.training.initialise import Initialised as Initialised
from longstate.training.initialise import initialise_from as initialise_from
from longstate.training.interrupted import Interrupted as Interrupted
from longstate.training.lightning_door import is_main_process as is_main_process
from longstate.training.optimizer import parameter_groups as parameter_groups
from longstate.training.optimizer import schedule as schedule
from longstate.training.whole_run import FitResult as FitResult
