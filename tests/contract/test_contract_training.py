"""Transformers' training test on LAVCap: its language model learns a sequence by heart, and says it."""

import unittest

from library_tests.test_training_mixin import TrainingTesterMixin
from tiny_models import tiny_config

from modeling_lavcap import LavcapForConditionalGeneration


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
