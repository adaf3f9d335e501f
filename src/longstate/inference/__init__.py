"""Running trained models: streaming sessions."""

from longstate.inference.align import align as align
from longstate.inference.fingerprint import fingerprint as fingerprint
from longstate.inference.session import Session as Session
