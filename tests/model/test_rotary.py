"""Rotary embedding turns each pair of channels by position x frequency, as complex numbers say it."""

import cmath

import torch

from chatsmith.model.gpt import rotary_table, rotate

LENGTH, HEAD_DIM, BASE = 11, 6, 100.0


def test_rotation_is_multiplication_by_a_complex_number_of_length_one():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, LENGTH, 3, HEAD_DIM, generator=generator, dtype=torch.float64)
    cos, sin = rotary_table(LENGTH, HEAD_DIM, BASE)
    turned = rotate(x, cos[None], sin[None])
    half = HEAD_DIM // 2
    for position in range(LENGTH):
        for pair in range(half):
            angle = position * BASE ** (-2 * pair / HEAD_DIM)
            number = torch.complex(x[:, position, :, pair], x[:, position, :, pair + half])
            expected = number * cmath.exp(-1j * angle)
            torch.testing.assert_close(turned[:, position, :, pair], expected.real)
            torch.testing.assert_close(turned[:, position, :, pair + half], expected.imag)


def test_products_of_turned_vectors_depend_on_distance_alone():
    generator = torch.Generator().manual_seed(1)
    query, key = torch.randn(2, HEAD_DIM, generator=generator, dtype=torch.float64)
    cos, sin = rotary_table(LENGTH, HEAD_DIM, BASE)
    everywhere = (1, LENGTH, 1, HEAD_DIM)
    queries = rotate(query.expand(everywhere), cos[None], sin[None])[0, :, 0]
    keys = rotate(key.expand(everywhere), cos[None], sin[None])[0, :, 0]
    products = queries @ keys.T
    for distance in range(-LENGTH + 1, LENGTH):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert not torch.isclose(products[3, 1], products[1, 3])  # direction counts


def test_angles_of_late_positions_keep_their_digits():
    cos, _ = rotary_table(100_001, 2, BASE)
    assert abs(cos[100_000, 0].item() - cmath.cos(100_000).real) < 1e-12
