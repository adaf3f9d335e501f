"""Benchmarks beside peers: the top room that measures; it reads all, and only the command line reads it."""

from longstate.bench.case import Case as Case
from longstate.bench.case import NotInstalled as NotInstalled
from longstate.bench.case import Side as Side
from longstate.bench.case import Work as Work
from longstate.bench.catalogue import CASES as CASES
from longstate.bench.catalogue import chosen as chosen
from longstate.bench.measure import Row as Row
from longstate.bench.measure import measure as measure
from longstate.bench.run import Options as Options
from longstate.bench.run import Result as Result
from longstate.bench.run import run as run
from longstate.bench.run import write as write
