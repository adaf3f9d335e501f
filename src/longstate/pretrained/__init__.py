"""Checkpoints that others published: read by name, every tensor accounted for, no program in them ever run."""

from longstate.pretrained.checkpoint import Checkpoint as Checkpoint
from longstate.pretrained.checkpoint import Left as Left
from longstate.pretrained.checkpoint import Used as Used
from longstate.pretrained.convert import Converted as Converted
from longstate.pretrained.convert import convert as convert
from longstate.pretrained.convert import load as load
from longstate.pretrained.convert import save as save
from longstate.pretrained.facts import Facts as Facts
from longstate.pretrained.files import open_checkpoint as open_checkpoint
from longstate.pretrained.hugging_face import ARCHITECTURES as ARCHITECTURES
from longstate.pretrained.hugging_face import save_hugging_face as save_hugging_face
