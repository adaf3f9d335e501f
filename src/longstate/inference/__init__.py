"""Running trained models: streaming sessions, and text from language models."""

from longstate.inference.align import align as align
from longstate.inference.draft import Verified as Verified
from longstate.inference.draft import verify_draft as verify_draft
from longstate.inference.fingerprint import fingerprint as fingerprint
from longstate.inference.generate import Generation as Generation
from longstate.inference.generate import generate as generate
from longstate.inference.generate import read_prompts as read_prompts
from longstate.inference.rows import select_rows as select_rows
from longstate.inference.rows import side_by_side as side_by_side
from longstate.inference.sampling import Sampling as Sampling
from longstate.inference.sampling import choose as choose
from longstate.inference.session import Session as Session
from longstate.inference.stopping import StopStream as StopStream
