"""The synthetic tasks of the papers: generators that are pure functions of their sizes and a seed."""

from longstate.data.synthetic.numbers import NumberTask as NumberTask
from longstate.data.synthetic.numbers import delay as delay
from longstate.data.synthetic.numbers import mackey_glass as mackey_glass
from longstate.data.synthetic.source import PREFIX as PREFIX
from longstate.data.synthetic.source import SYNTHETIC as SYNTHETIC
from longstate.data.synthetic.source import labels_of as labels_of
from longstate.data.synthetic.source import read_synthetic as read_synthetic
from longstate.data.synthetic.tokens import TokenTask as TokenTask
from longstate.data.synthetic.tokens import associative_recall as associative_recall
from longstate.data.synthetic.tokens import copying as copying
from longstate.data.synthetic.tokens import induction_heads as induction_heads
from longstate.data.synthetic.tokens import selective_copying as selective_copying
