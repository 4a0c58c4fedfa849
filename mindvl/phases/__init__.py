"""LightningModules of MindVL's phases; the only room where model and data meet."""

from mindvl.phases.base import Phase
from mindvl.phases.benchmarks import BenchmarkFile, Benchmarks
from mindvl.phases.expert_balance import ExpertBalance
from mindvl.phases.instruction import InstructionTuning
from mindvl.phases.language import LanguageOnly
from mindvl.phases.model_spec import ModelSpec
from mindvl.phases.multitask import Multitask
from mindvl.phases.schedule import Rates
from mindvl.phases.warmup import WarmUp

__all__ = [
    "BenchmarkFile",
    "Benchmarks",
    "ExpertBalance",
    "InstructionTuning",
    "LanguageOnly",
    "ModelSpec",
    "Multitask",
    "Phase",
    "Rates",
    "WarmUp",
]
