"""Public names that no entry of the table covers, and the tests that hold them instead.

Here is what is no function of Tensors' values: identity, reading, memory, randomness. The tests that are named exist;
`tests/test_surface.py` looks.
"""

from __future__ import annotations

_ASSIGNMENT = "test_assignment.py::test_assignment_to_a_part_rebinds_and_leaves_earlier_views_alone"

ELSEWHERE: dict[str, str] = {
    "Tensor.manual_seed": "test_random.py::test_the_same_seed_draws_the_same_and_another_does_not",
    "Tensor.get_rng_state": "test_random.py::test_the_state_of_the_generator_is_where_it_goes_on",
    "Tensor.set_rng_state": "test_random.py::test_the_state_of_the_generator_is_where_it_goes_on",
    "Tensor.dropout": "test_random.py::test_dropout_keeps_as_many_as_it_says_and_their_sum",
    "Tensor.__setitem__": _ASSIGNMENT,
    "nn.ModuleList": "test_nn_module.py::test_module_lists_grow_and_shrink_as_torchs",
}
