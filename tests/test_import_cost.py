"""Using a layer costs little over torch: nothing heavy is loaded behind the user's back."""

import subprocess
import sys


def test_using_a_layer_loads_neither_sympy_nor_the_exporter() -> None:
    code = (
        "import sys, torch; from longstate import S4, S4D; x = torch.zeros(1, 8, 4)\n"
        "before = set(sys.modules)\n"
        "for layer in (S4D(4, 8), S4(4, 8)):\n"
        "    layer(x).sum().backward(); layer.step(x[:, 0], layer.initial_state(1))\n"
        "loaded = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print('sympy' in loaded, 'torch.export' in set(sys.modules) - before)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]
