"""The names a configuration can choose from. A new body, head or balancer is one line here."""

from torch import nn

from models.esmm import ESMMHead
from models.independent import IndependentHead
from models.mmoe import MMoE
from models.shared_bottom import SharedBottom

# name -> class(input_width, num_tasks, **options); keyword-only parameters are the options of the configuration.
BODIES: dict[str, type[nn.Module]] = {
    "mmoe": MMoE,
    "shared_bottom": SharedBottom,
}

# name -> class(tasks, **options)
HEADS: dict[str, type[nn.Module]] = {
    "esmm": ESMMHead,
    "independent": IndependentHead,
}
