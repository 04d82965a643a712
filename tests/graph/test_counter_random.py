"""The generator of training steps: what a seed is, and how far two of them are apart."""

import torch
from torch.fx.traceback import preserve_node_meta

from lightning_fwd.graph.counter_random import hash32, number, random_bits, uniform, wrong_labels

CYCLE = 2**32


def nearest(seeds: range) -> tuple[int, tuple[int, int]]:
    """The smallest distance between the places of two seeds on the cycle, and which two."""
    places = sorted((hash32(seed), seed) for seed in seeds)
    following = zip(places, [*places[1:], (places[0][0] + CYCLE, places[0][1])], strict=True)
    return min((b[0] - a[0], (a[1], b[1])) for a, b in following)


def test_a_seed_is_a_window_of_one_cycle():
    assert torch.equal(random_bits(0, (1000,)), hash32(torch.arange(1000)))  # seed 0's place is 0
    place = hash32(7)
    assert torch.equal(random_bits(7, (5, 9)).flatten(), hash32(torch.arange(place, place + 45)))
    index = torch.arange(CYCLE - 8, CYCLE + 8)  # past its end the cycle begins again
    assert torch.equal(hash32(index)[8:], hash32(torch.arange(8)))


def test_wrong_labels_are_the_same_from_a_number_and_from_a_counter():
    labels, counter = torch.arange(50) % 7, torch.tensor(12)
    assert number(counter) == 12 and type(number(counter)) is int
    with preserve_node_meta():  # by torch, as a traced step draws them
        expected = wrong_labels(labels, 7, counter * 2 + 5)
    found = wrong_labels(labels, 7, number(counter) * 2 + 5)
    assert torch.equal(found, expected) and found.dtype == expected.dtype and (found != labels).all()


def test_values_are_those_of_the_published_function():
    """lowbias32 of the first integers, as its source in C gives them."""
    assert [hash32(x) for x in range(4)] == [0, 0x688990C0, 0xD1132181, 0x53F1E9DD]


def test_two_seeds_whose_places_are_near_share_draws():
    draws = 30_720  # entries of ResNet-8's feedback matrix
    assert nearest(range(2000)) == (539, (798, 1135))
    first, second = uniform(798, (draws,)), uniform(1135, (draws,))
    assert torch.equal(first[539:], second[:-539]) and len(first[539:]) == 30_181


def test_the_first_hundred_seeds_share_nothing_up_to_68865_draws():
    assert nearest(range(100)) == (68_865, (28, 72))
