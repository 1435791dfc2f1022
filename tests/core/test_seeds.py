from sana_core.seeds import derived_seed


def test_a_seed_is_that_of_its_names():
    assert derived_seed(0, "a") == 0x5F1AA0C8  # the same for ever: pictures of older versions are drawn again by it
    assert derived_seed(1, 12) == derived_seed(1, "12")


def test_other_names_have_other_seeds():
    seeds = {derived_seed(base, *names) for base in (0, 1) for names in (("a",), ("a", "b"), ("ab",), (10,), (1, 0))}
    assert len(seeds) == 10 and max(seeds) < 2**32
