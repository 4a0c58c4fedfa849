import numpy as np
import pytest

from mindvl.routing.balance import (
    domain_correlation,
    domain_difference,
    domain_specialization,
    load_balance,
    pearson,
)


def test_load_balance_is_the_standard_deviation_over_all_experts_in_percent():
    assert load_balance(np.array([[0.1, 0.3], [0.2, 0.2]])) == pytest.approx(100 * (0.02 / 3) ** 0.5)
    assert load_balance(np.full((3, 4), 0.25)) == 0


def test_specialization_is_the_coefficient_of_variation_over_the_domains_that_use_an_expert():
    activation = np.array([[0.3, 0.2, 0.5, 0.0, 0.1], [0.1, 0.2, 1e-5, 0.0, 0.3], [0.2, 0.2, 1e-6, 0.0, 1e-5]])
    found = domain_specialization(activation[:, None])
    assert found.experts.shape == (1, 5)
    assert found.experts[0, :2].tolist() == pytest.approx([0.5, 0.0])  # SD 0.1 over mean 0.2
    assert np.isnan(found.experts[0, 2:4]).all()  # used by one domain, and by none
    assert found.experts[0, 4] == pytest.approx(0.02**0.5 / 0.2)  # 0.1 and 0.3; 1e-5 is left out
    assert found.model == pytest.approx(np.mean([0.5, 0.0, 0.02**0.5 / 0.2]))


def test_a_model_whose_experts_have_one_domain_each_has_no_specialization():
    assert np.isnan(domain_specialization(np.full((1, 2, 3), 0.5)).model)


def test_domain_differences_are_relative_to_the_whole():
    assert domain_difference(np.array([[0.6], [0.4]]), np.array([0.5])) == pytest.approx(np.array([[0.2], [-0.2]]))


def test_correlation_agrees_with_numpy_where_both_have_values():
    rng = np.random.default_rng(0)
    values = rng.random((3, 2, 7))
    assert domain_correlation(values) == pytest.approx(np.corrcoef(values.reshape(3, -1)))
    values[0, 0, 0] = np.nan
    rest = values.reshape(3, -1)[:, 1:]
    assert domain_correlation(values)[0, 1] == pytest.approx(np.corrcoef(rest)[0, 1])
    assert np.isnan(pearson(np.ones(4), np.arange(4.0))) and np.isnan(pearson(np.ones(1), np.ones(1)))
