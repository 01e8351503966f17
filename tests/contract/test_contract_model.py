"""Transformers' common model tests on a tiny LAVCap and on its audio tower."""

import copy
import unittest

import torch
from contract_skips import AUDIO_TOWER, MODEL, NO_EMBEDDED_PLACEHOLDER
from library_tests import skipping
from library_tests.test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor
from tiny_models import tiny_config

from modeling_lavcap import LavcapAudioModel, LavcapForConditionalGeneration


class LavcapTester:
    """What the mixins ask of a model: a configuration, inputs, and sizes to compare outputs with."""

    batch_size, seq_length = 2, 11
    num_hidden_layers, hidden_size, num_attention_heads = 2, 32, 2
    is_training = True

    def __init__(self, av_token_id: int | None):
        self.av_token_id = av_token_id

    def get_config(self):
        return tiny_config(av_token_id=self.av_token_id, vision_config={"num_hidden_layers": 2})

    def prepare_config_and_inputs_for_common(self):
        config = self.get_config()
        input_ids = ids_tensor([self.batch_size, self.seq_length], 250) + 10
        input_ids[:, 2:9] = config.av_token_id
        return config, {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
            "input_features": floats_tensor([self.batch_size, 48, 64]),
            "pixel_values_videos": floats_tensor([self.batch_size, 4, 3, 16, 16]),
        }


@skipping(MODEL)
class LavcapModelTest(ModelTesterMixin, unittest.TestCase):
    """With a placeholder in the vocabulary, as the tests assume."""

    all_model_classes = (LavcapForConditionalGeneration,)
    _is_composite = True
    av_token_id = 3

    def setUp(self):
        self.model_tester = LavcapTester(self.av_token_id)

    def _prepare_for_class(self, inputs, model_class, return_labels=False):
        inputs = copy.deepcopy(inputs)
        if return_labels:
            ids = inputs["input_ids"]
            inputs["labels"] = ids.masked_fill(ids == self.model_tester.get_config().av_token_id, -100)
        return inputs

    def test_can_init_all_missing_weights(self):
        """Without CLIP, whose own projection does not come out of this test as it went in."""
        self.model_tester.get_config = lambda: tiny_config(has_vision_tower=False)
        super().test_can_init_all_missing_weights()


@skipping(MODEL | NO_EMBEDDED_PLACEHOLDER)
class LavcapDefaultPlaceholderTest(LavcapModelTest):
    """With the default placeholder, just outside the vocabulary."""

    av_token_id = None


class LavcapAudioTester:
    batch_size, seq_length = 2, 12  # 4 frequency rows of 3 time steps
    num_hidden_layers, hidden_size, num_attention_heads = 2, 24, 3
    is_training = True

    def prepare_config_and_inputs_for_common(self):
        return tiny_config().audio_config, {"input_features": floats_tensor([self.batch_size, 48, 64])}


@skipping(AUDIO_TOWER)
class LavcapAudioModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (LavcapAudioModel,)
    test_resize_embeddings = False

    def setUp(self):
        self.model_tester = LavcapAudioTester()
