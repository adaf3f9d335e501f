"""Running trained models: streaming sessions."""

from longstate.inference.fingerprint import fingerprint as fingerprint
from longstate.inference.session import Session as Session
