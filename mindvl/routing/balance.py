"""How evenly experts are used, over the whole corpus and over its domains (arXiv 2505.16056, table 2 and section 5).

All of it starts from the *activation* of each expert, the share of tokens that choose it (`segment_routing` with
level="expert"; the paper takes m = 16). Two experts and two domains, by hand:

    activation      code   prose  | both       specialization (coefficient of variation over domains)
    expert 0        0.30   0.10   | 0.20       SD 0.1414 / mean 0.20 = 0.707     a specialist
    expert 1        0.20   0.20   | 0.20       0                                 used alike everywhere

Balanced over the corpus, expert 0 is not balanced within a domain: global balance says nothing about local balance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RARELY_ACTIVE_RATIO = 1e-5
"""Domains that use an expert this little or less say nothing about its specialization."""


@dataclass(frozen=True, eq=False)
class DomainSpecialization:
    """How differently domains use each expert."""

    experts: np.ndarray
    """(layers, experts) coefficient of variation of activation over domains; NaN with fewer than two domains in use."""
    model: float
    """Mean over the experts that have one."""


def load_balance(activation: np.ndarray) -> float:
    """Standard deviation (n - 1) of activation over all (layer, expert) pairs, in percent; 0 is perfectly even."""
    return float(100 * np.std(activation, ddof=1))


def domain_specialization(activation: np.ndarray) -> DomainSpecialization:
    """Coefficient of variation (SD with n - 1, over mean) over the domains of activation (domains, layers, experts)."""
    used = np.where(activation > RARELY_ACTIVE_RATIO, activation, np.nan)
    count = (~np.isnan(used)).sum(axis=0)
    mean = np.nansum(used, axis=0) / np.maximum(count, 1)
    spread = np.sqrt(np.nansum((used - mean) ** 2, axis=0) / np.maximum(count - 1, 1))
    experts = np.where(count >= 2, spread / np.where(mean > 0, mean, 1), np.nan)
    some = ~np.isnan(experts)
    return DomainSpecialization(experts, float(experts[some].mean()) if some.any() else float("nan"))


def domain_difference(of_domains: np.ndarray, of_all: np.ndarray) -> np.ndarray:
    """(value of a domain - value of all) / value of all, such as SRP (domains, layers) against (layers)."""
    return (of_domains - of_all) / of_all


def pearson(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's r over the experts where both have a value; NaN with fewer than two, or when one does not vary."""
    both = ~(np.isnan(first) | np.isnan(second))
    x, y = first[both], second[both]
    if x.size < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum()))


def domain_correlation(values: np.ndarray) -> np.ndarray:
    """(domains, domains) Pearson's r over experts, of SRP or activation (domains, layers, experts)."""
    return np.array([[pearson(first, second) for second in values] for first in values])
