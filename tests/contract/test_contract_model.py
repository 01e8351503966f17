"""Transformers' common model tests on a tiny model of each family and on its encoders."""

import copy
import unittest

import pytest
import torch
from contract_skips import AVCAP, CAVMAE, DALI, ENCODER, MODEL, NO_EMBEDDED_PLACEHOLDER, TEXT_DECODER
from library_tests import skipping
from library_tests.test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor
from tiny_models import tiny_config

from modeling_avcap import AvcapForConditionalGeneration, CavMaeModel, GitTextModel
from modeling_dali import DaliForConditionalGeneration
from modeling_lavcap import LavcapAudioModel, LavcapForConditionalGeneration
from tiny_avcap import tiny_avcap_config
from tiny_dali import tiny_dali_config


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


@pytest.mark.slow
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


@skipping(ENCODER)
class LavcapAudioModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (LavcapAudioModel,)
    test_resize_embeddings = False

    def setUp(self):
        self.model_tester = LavcapAudioTester()


class AvcapTester:
    """11 tokens of text behind 32 of the clip."""

    batch_size, seq_length = 2, 11
    encoder_seq_length = 43
    num_hidden_layers, hidden_size, num_attention_heads = 2, 32, 2
    is_training = True

    @staticmethod
    def get_config():
        return tiny_avcap_config()

    def prepare_config_and_inputs_for_common(self):
        input_ids = ids_tensor([self.batch_size, self.seq_length], 190) + 105
        clip = {
            "input_features": floats_tensor([self.batch_size, 48, 128]),
            "pixel_values_videos": floats_tensor([self.batch_size, 4, 3, 32, 32]),
        }
        return self.get_config(), {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)} | clip


@skipping(MODEL | AVCAP)
class AvcapModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (AvcapForConditionalGeneration,)
    _is_composite = True

    def setUp(self):
        self.model_tester = AvcapTester()

    def _prepare_for_class(self, inputs, model_class, return_labels=False):
        inputs = copy.deepcopy(inputs)
        return inputs | ({"labels": inputs["input_ids"]} if return_labels else {})


class CavMaeTester:
    """Sound and picture; 24 and 8 tokens."""

    batch_size, seq_length = 2, 32
    num_hidden_layers, hidden_size, num_attention_heads = 5, 24, 3  # two of each modality and a joint one
    is_training = True

    def prepare_config_and_inputs_for_common(self):
        inputs = AvcapTester().prepare_config_and_inputs_for_common()[1]
        return tiny_avcap_config().audio_visual_config, {name: inputs[name] for name in list(inputs)[2:]}


@skipping(ENCODER | CAVMAE)
class CavMaeModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (CavMaeModel,)
    test_resize_embeddings = False

    def setUp(self):
        self.model_tester = CavMaeTester()


class GitTextTester(AvcapTester):
    encoder_seq_length = 11

    def prepare_config_and_inputs_for_common(self):
        inputs = super().prepare_config_and_inputs_for_common()[1]
        return tiny_avcap_config().text_config, {name: inputs[name] for name in list(inputs)[:2]}


@skipping(TEXT_DECODER)
class GitTextModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (GitTextModel,)

    def setUp(self):
        self.model_tester = GitTextTester()


class DaliTester:
    """Sound and picture, the prefix behind them: 24, 4 and 2 tokens."""

    batch_size, seq_length = 2, 34
    num_hidden_layers, hidden_size, num_attention_heads = 2, 32, 2
    is_training = True

    @staticmethod
    def get_config():
        return tiny_dali_config(av_token_id=3, use_prefix=True, vision_feature_layer=-1)

    def prepare_config_and_inputs_for_common(self):
        config = self.get_config()
        input_ids = ids_tensor([self.batch_size, self.seq_length], 250) + 10
        input_ids[:, 2:32] = config.av_token_id
        return config, {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
            "input_features": floats_tensor([self.batch_size, 48, 128]),
            "pixel_values_videos": floats_tensor([self.batch_size, 1, 3, 16, 16]),
        }


@pytest.mark.slow  # most of what it goes through is LAVCap's
@skipping(MODEL | DALI)
class DaliModelTest(LavcapModelTest):
    all_model_classes = (DaliForConditionalGeneration,)

    def setUp(self):
        self.model_tester = DaliTester()
