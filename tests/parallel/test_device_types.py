from mindvl.parallel.device_types import DEVICE_TYPES, GiB


def test_every_device_type_has_sources_and_gives_less_than_its_memory():
    for device in DEVICE_TYPES.values():
        assert device.source and device.memory_source and device.usable_bytes < device.memory_bytes


def test_memory_is_what_pytorch_sees_and_not_the_data_sheets():
    on_paper = {"a100": 80, "h100": 80, "h200": 141, "910b": 64, "910b2": 64, "910c": 64}
    for name, gigabytes in on_paper.items():
        assert 0.95 * gigabytes < DEVICE_TYPES[name].memory_bytes / GiB < gigabytes


def test_the_bins_of_a_910b_are_told_apart():
    """20 cores for matrix products against 24, at the same clock."""
    assert abs(DEVICE_TYPES["910b"].flops / 20 - DEVICE_TYPES["910b2"].flops / 24) < 0.1e12
    assert "910B3" in DEVICE_TYPES["910b"].source and "910B2" in DEVICE_TYPES["910b2"].source
