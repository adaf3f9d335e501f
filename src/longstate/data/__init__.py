"""Recordings: reading them, dividing them, and loading them in batches that can be resumed."""

from longstate.data.arrays import from_arrays as from_arrays
from longstate.data.batches import Batch as Batch
from longstate.data.batches import collate as collate
from longstate.data.folder import read_folder as read_folder
from longstate.data.loader import Loader as Loader
from longstate.data.manifest import read_manifest as read_manifest
from longstate.data.read import read as read
from longstate.data.recording import Recording as Recording
from longstate.data.recording_file import read_recording as read_recording
from longstate.data.recordings import TASKS as TASKS
from longstate.data.recordings import Recordings as Recordings
from longstate.data.recordings import Task as Task
from longstate.data.splits import Split as Split
from longstate.data.splits import leave_one_group_out as leave_one_group_out
from longstate.data.splits import split as split
from longstate.data.statistics import Statistics as Statistics
from longstate.data.statistics import statistics as statistics
from longstate.data.statistics import target_statistics as target_statistics
from longstate.data.step_labels import read_step_labels as read_step_labels
from longstate.data.ucr import read_ucr as read_ucr
from longstate.data.uea import read_uea as read_uea
from longstate.data.watch import read_watch as read_watch
