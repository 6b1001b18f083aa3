"""Dollars per hour and per token, and carbon."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from explore import (
    Ownership,
    annuity,
    designed_chip,
    die_hourly_cost,
    die_of,
    embodied_gco2,
    gco2_per_hour,
    gco2_per_million_tokens,
    hourly_cost,
    idle_watts,
    package_cost,
    peak_watts,
    price_usd,
    usd_per_million_tokens,
)
from hardware import load

positive = st.floats(1.0, 1e5)
RISING = ("server_usd_per_accelerator", "host_watts_per_accelerator", "interest_per_year", "maintenance_per_year")
RISING += ("datacentre_usd_per_watt", "pue", "usd_per_kwh", "mean_power_share")


def test_one_hour_by_hand():
    terms = Ownership(
        years=4.0,
        interest_per_year=1e-9,
        maintenance_per_year=0.0,
        server_usd_per_accelerator=0.0,
        host_watts_per_accelerator=0.0,
        datacentre_usd_per_watt=0.0,
        pue=1.5,
        usd_per_kwh=0.1,
        utilisation=1.0,
        mean_power_share=1.0,
    )
    cost = hourly_cost(35064.0, 1000.0, terms)
    assert cost.accelerator_usd == pytest.approx(1.0, rel=1e-6)  # 4 years are 35064 hours
    assert cost.energy_usd == pytest.approx(0.15)
    assert cost.total_usd == pytest.approx(1.15, rel=1e-6)
    assert usd_per_million_tokens(cost.total_usd, 1000.0, terms) == pytest.approx(1.15 / 3.6, rel=1e-6)
    assert gco2_per_hour(1000.0, 0.0, terms) == pytest.approx(1.5 * terms.gco2_per_kwh)
    assert gco2_per_hour(0.0, 35064.0, terms) == pytest.approx(1.0)
    assert gco2_per_million_tokens(3.6, 1000.0, terms) == pytest.approx(1.0)


@settings(deadline=None, max_examples=50)
@given(years=st.floats(1.0, 20.0), interest=st.floats(0.001, 0.3))
def test_an_annuity_repays_its_loan(years, interest):
    payment = annuity(years, interest)
    assert payment > max(1.0 / years, interest)
    assert payment * (1.0 - (1.0 + interest) ** -years) / interest == pytest.approx(1.0)


@settings(deadline=None, max_examples=50)
@given(price=positive, watts=positive, name=st.sampled_from(RISING), factor=st.floats(1.01, 2.0))
def test_hours_cost_more_when_anything_does(price, watts, name, factor):
    terms = Ownership()
    dearer = terms.replace(**{name: getattr(terms, name) * factor})
    cost = hourly_cost(price, watts, terms)
    assert sum(cost[:-1]) == pytest.approx(cost.total_usd)
    assert hourly_cost(price, watts, dearer).total_usd > cost.total_usd
    assert hourly_cost(price * factor, watts, terms).total_usd > cost.total_usd
    assert hourly_cost(price, watts * factor, terms).total_usd > cost.total_usd
    assert hourly_cost(price, watts, terms.replace(years=terms.years * factor)).total_usd < cost.total_usd


@settings(deadline=None, max_examples=30)
@given(hourly=positive, rate=positive, factor=st.floats(1.1, 10.0))
def test_tokens_cost_in_proportion(hourly, rate, factor):
    cost = usd_per_million_tokens(hourly, rate)
    assert usd_per_million_tokens(hourly * factor, rate) == pytest.approx(cost * factor)
    assert usd_per_million_tokens(hourly, rate * factor) == pytest.approx(cost / factor)


def test_a_designed_chip_carries_its_power_and_price():
    die, like, terms = die_of("h100_sxm"), load("h100_sxm"), Ownership(gross_margin=0.5, board_usd=100.0)
    chip = designed_chip(die, like, terms)
    assert chip.price_usd == pytest.approx(2.0 * package_cost(die).total_usd + 100.0)
    assert chip.price_usd == price_usd(die, terms)
    assert chip.peak_watts == peak_watts(die)
    assert chip.idle_watts == idle_watts(die)


def test_orders_of_magnitude_of_an_h100():
    die = die_of("h100_sxm")
    assert 1000.0 < package_cost(die).total_usd < 4000.0  # estimates in the trade press range from 2000 to 3500 USD
    assert 0.4 < die_hourly_cost(die).total_usd < 3.0  # rented for 2 to 4 USD per hour in 2024
    assert (
        20e3 < embodied_gco2(die) < 300e3
    )  # 164 kg for the accelerator card of HGX H100: NVIDIA product carbon footprint, 2025


def test_more_bandwidth_for_the_same_money_is_one_gradient():
    die = jax.tree.map(float, die_of("h100_sxm"))

    @jax.jit
    @jax.value_and_grad
    def hour(each):
        return die_hourly_cost(each).total_usd

    value, slopes = hour(die)
    assert value == pytest.approx(die_hourly_cost(die).total_usd, rel=1e-9)
    for name in ("interfaces", "l2_bytes", "matrix_macs_per_core", "clock_hz", "voltage"):
        base = getattr(die, name)
        up, down = (die_hourly_cost(die.replace(**{name: base * (1.0 + s)})).total_usd for s in (1e-4, -1e-4))
        np.testing.assert_allclose(getattr(slopes, name), (up - down) / (2e-4 * base), rtol=1e-3)
        assert getattr(slopes, name) > 0.0
