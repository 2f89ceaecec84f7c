"""The names a configuration can choose from: a new entry is one line. Keyword-only parameters are its options."""

from torch import nn

from models.balancers.balancer import Balancer
from models.balancers.cagrad import CAGrad
from models.balancers.dwa import DynamicWeightAverage
from models.balancers.famo import FAMO
from models.balancers.fixed import FixedWeights
from models.balancers.gradnorm import GradNorm
from models.balancers.metabalance import MetaBalance
from models.balancers.pcgrad import PCGrad
from models.balancers.random_weights import RandomWeights
from models.balancers.uncertainty import UncertaintyWeights
from models.bodies.aitm import AITM
from models.bodies.cgc import CGC
from models.bodies.cross_stitch import CrossStitch
from models.bodies.dbmtl import DBMTL
from models.bodies.mmoe import MMoE
from models.bodies.omoe import OMoE
from models.bodies.pepnet import PEPNet
from models.bodies.ple import PLE
from models.bodies.shared_bottom import SharedBottom
from models.bodies.single_task import SingleTask
from models.bodies.stem import STEM
from models.heads.esmm import ESMMHead
from models.heads.independent import IndependentHead
from models.interactions.factorization_machine import FactorizationMachine
from models.interactions.low_rank_cross import LowRankCross

# name -> class(inputs, tasks, **options)
BODIES: dict[str, type[nn.Module]] = {
    "aitm": AITM,
    "cgc": CGC,
    "cross_stitch": CrossStitch,
    "dbmtl": DBMTL,
    "mmoe": MMoE,
    "omoe": OMoE,
    "pepnet": PEPNet,
    "ple": PLE,
    "shared_bottom": SharedBottom,
    "single_task": SingleTask,
    "stem": STEM,
}

# name -> class(tasks, **options)
HEADS: dict[str, type[nn.Module]] = {
    "esmm": ESMMHead,
    "independent": IndependentHead,
}

# name -> class(tasks, **options)
BALANCERS: dict[str, type[Balancer]] = {
    "cagrad": CAGrad,
    "dwa": DynamicWeightAverage,
    "famo": FAMO,
    "fixed": FixedWeights,
    "gradnorm": GradNorm,
    "metabalance": MetaBalance,
    "pcgrad": PCGrad,
    "random": RandomWeights,
    "uncertainty": UncertaintyWeights,
}

# name -> class(inputs, **options)
INTERACTIONS: dict[str, type[nn.Module]] = {
    "factorization_machine": FactorizationMachine,
    "low_rank_cross": LowRankCross,
}
