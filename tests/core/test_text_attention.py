"""Cross-attention to a text that frames share, and modules that are not plain."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import Attention

from vinf_core.models.text_attention import RepeatedText, SharedTextAttention, is_plain

pytestmark = pytest.mark.fast


def attention(**options: object) -> Attention:
    torch.manual_seed(3)
    return Attention(query_dim=16, cross_attention_dim=12, heads=2, dim_head=8, **options).eval()


@pytest.mark.parametrize(
    "options",
    [
        {"qk_norm": "layer_norm"},
        {"norm_num_groups": 4},
        {"residual_connection": True},
        {"cross_attention_norm": "layer_norm"},
    ],
)
def test_modules_with_more_to_do_keep_their_own_processor(options: dict[str, object]) -> None:
    module = attention(**options)
    assert not is_plain(module)
    hidden, text = torch.randn(6, 5, 16), torch.randn(2, 7, 12)
    with torch.inference_mode():
        expected = module(hidden, encoder_hidden_states=text.repeat_interleave(3, dim=0))
        module.set_processor(RepeatedText(module.processor))
        assert torch.equal(module(hidden, encoder_hidden_states=text), expected)


def test_a_plain_module_reads_a_shared_text_once() -> None:
    module = attention()
    assert is_plain(module)
    hidden, text = torch.randn(6, 5, 16), torch.randn(2, 7, 12)
    with torch.inference_mode():
        expected = module(hidden, encoder_hidden_states=text.repeat_interleave(3, dim=0))
        module.set_processor(SharedTextAttention())
        torch.testing.assert_close(module(hidden, encoder_hidden_states=text), expected)
