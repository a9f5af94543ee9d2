"""Public names that no entry of the table covers, and the tests that hold them instead.

Here is what is no function of Tensors' values: identity, reading, memory, randomness. The tests that are named exist;
`tests/test_surface.py` looks.
"""

from __future__ import annotations

_NAME = "test_tensor.py::test_what_a_tensor_says_of_itself_is_what_torch_says"
_BACKWARD = "test_tensor.py::test_backward_adds_to_grad_and_create_graph_keeps_it_differentiable"
_HISTORY = "test_tensor.py::test_no_grad_and_requires_grad_say_what_keeps_a_history"
_MOVED = "test_tensor.py::test_to_moves_a_copy_and_to_moves_the_name_itself"
_REALIZE = "test_tensor.py::test_realize_and_contiguous_change_no_value"
_SHARED = "test_interchange.py::test_numpys_memory_is_shared_and_read_only_and_a_devices_is_copied"
_DLPACK = "test_interchange.py::test_every_dtype_goes_to_torch_and_back_unchanged"

_TRANSFORMER = "test_nn_transformer.py::test_outputs_and_every_gradient_are_torchs"

ELSEWHERE: dict[str, str] = {
    "Tensor.manual_seed": "test_random.py::test_the_same_seed_draws_the_same_and_another_does_not",
    "Tensor.get_rng_state": "test_random.py::test_the_state_of_the_generator_is_where_it_goes_on",
    "Tensor.set_rng_state": "test_random.py::test_the_state_of_the_generator_is_where_it_goes_on",
    "Tensor.dropout": "test_random.py::test_dropout_keeps_as_many_as_it_says_and_their_sum",
    **{f"Tensor.{name}": _NAME for name in ("shape", "ndim", "size", "numel", "element_size", "nbytes", "tolist")},
    "Tensor.is_floating_point": "test_dtypes.py::test_casts_by_name_are_casts",
    "Tensor.dtype": "test_dtypes.py::test_numbers_and_lists_have_torchs_dtype_and_shape",
    "Tensor.item": "test_tensor.py::test_python_reads_single_elements",
    "Tensor.numpy": "test_tensor.py::test_gradients_of_leaves_and_of_values_on_the_way_are_torchs",
    "Tensor.realize": _REALIZE,
    "Tensor.realize_all": "test_dtypes.py::test_bitcasts_are_torchs_views_between_all_widths",
    "Tensor.backward": _BACKWARD,
    "Tensor.grad": _BACKWARD,
    "Tensor.requires_grad": _HISTORY,
    "Tensor.requires_grad_": _HISTORY,
    "Tensor.no_grad": _HISTORY,
    "Tensor.device": _MOVED,
    "Tensor.to_": _MOVED,
    "Tensor.assign": "test_tensor.py::test_assignment_rebinds_the_name_and_casts",
    "Tensor.explain": "test_tensor.py::test_explain_tells_every_stage",
    "Tensor.node": "test_schedule.py::test_simplify_takes_identities_away_and_keeps_signed_zeros",
    "Tensor.__array__": "test_interchange.py::test_arrays_of_another_dtype",
    "Tensor.__dlpack__": _DLPACK,
    "Tensor.__dlpack_device__": _SHARED,
    "Tensor.from_dlpack": _DLPACK,
    "Tensor.data": "test_interchange.py::test_data_is_a_memoryview_of_shape_and_dtype",
    "nn.ModuleList": "test_nn_module.py::test_module_lists_grow_and_shrink_as_torchs",
    # A hundred examples of whole stacks take longer than what they could find.
    **{f"nn.Transformer{name}": _TRANSFORMER for name in ("", "Encoder", "DecoderLayer", "Decoder")},
}
