"""Transformers' common configuration tests on LAVCap's configurations."""

import unittest

from library_tests.test_configuration_common import ConfigTester
from tiny_models import tiny_config

from configuration_lavcap import LavcapAudioConfig, LavcapConfig


class LavcapConfigTest(unittest.TestCase):
    model_tester = type("Tester", (), {"get_config": staticmethod(tiny_config)})

    def test_the_configuration_of_the_model(self):
        tester = ConfigTester(self, LavcapConfig, has_text_modality=False, fusion="cross_attention", av_token_id=7)
        tester.run_common_tests()

    def test_the_configuration_of_the_audio_tower(self):
        tester = ConfigTester(self, LavcapAudioConfig, has_text_modality=False, hidden_size=24, num_attention_heads=3)
        tester.run_common_tests()
