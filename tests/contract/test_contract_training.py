"""Transformers' training test on each family: its language model learns a sequence by heart, and says it."""

import unittest

import pytest
from library_tests.test_training_mixin import TrainingTesterMixin
from tiny_models import tiny_config

from modeling_avcap import AvcapForConditionalGeneration
from modeling_dali import DaliForConditionalGeneration
from modeling_lavcap import LavcapForConditionalGeneration
from tiny_avcap import tiny_avcap_config
from tiny_dali import tiny_dali_config


pytestmark = pytest.mark.slow


class TrainingTester:
    @staticmethod
    def get_config():
        config = tiny_config(text_config={"hidden_size": 64, "intermediate_size": 128})
        config.vocab_size = config.text_config.vocab_size  # which the test expects at the top
        return config

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), {"input_ids": None}


class LavcapTrainingTest(TrainingTesterMixin, unittest.TestCase):
    model_tester = TrainingTester()
    all_model_classes = (LavcapForConditionalGeneration,)


class AvcapTrainingTester(TrainingTester):
    @staticmethod
    def get_config():
        text = {"hidden_size": 64, "intermediate_size": 128, "hidden_dropout_prob": 0.0}
        config = tiny_avcap_config(label_smoothing=0.0, text_config=text | {"attention_probs_dropout_prob": 0.0})
        config.vocab_size = config.text_config.vocab_size
        return config


class AvcapTrainingTest(TrainingTesterMixin, unittest.TestCase):
    model_tester = AvcapTrainingTester()
    all_model_classes = (AvcapForConditionalGeneration,)


class DaliTrainingTester(TrainingTester):
    @staticmethod
    def get_config():
        config = tiny_dali_config(text_config={"hidden_size": 64, "intermediate_size": 128})
        config.vocab_size = config.text_config.vocab_size
        return config


class DaliTrainingTest(TrainingTesterMixin, unittest.TestCase):
    model_tester = DaliTrainingTester()
    all_model_classes = (DaliForConditionalGeneration,)
