"""Transformers' common configuration tests on the configurations of each family."""

import unittest

from library_tests.test_configuration_common import ConfigTester
from tiny_models import tiny_config

from configuration_avcap import AvcapConfig, CavMaeConfig, GitTextConfig
from configuration_dali import DaliConfig
from configuration_lavcap import LavcapAudioConfig, LavcapConfig
from tiny_avcap import tiny_avcap_config
from tiny_dali import tiny_dali_config


class LavcapConfigTest(unittest.TestCase):
    model_tester = type("Tester", (), {"get_config": staticmethod(tiny_config)})

    def test_the_configuration_of_the_model(self):
        tester = ConfigTester(self, LavcapConfig, has_text_modality=False, fusion="cross_attention", av_token_id=7)
        tester.run_common_tests()

    def test_the_configuration_of_the_audio_tower(self):
        tester = ConfigTester(self, LavcapAudioConfig, has_text_modality=False, hidden_size=24, num_attention_heads=3)
        tester.run_common_tests()


class AvcapConfigTest(unittest.TestCase):
    model_tester = type("Tester", (), {"get_config": staticmethod(tiny_avcap_config)})

    def test_the_configuration_of_the_model(self):
        ConfigTester(self, AvcapConfig, has_text_modality=False, label_smoothing=0.2).run_common_tests()

    def test_the_configuration_of_the_encoder(self):
        fields = {"hidden_size": 24, "num_attention_heads": 3, "mode": "audio"}
        common = ["hidden_size", "num_attention_heads"]  # layers are counted by modality
        ConfigTester(
            self, CavMaeConfig, has_text_modality=False, common_properties=common, **fields
        ).run_common_tests()

    def test_the_configuration_of_the_text_decoder(self):
        ConfigTester(self, GitTextConfig, hidden_size=32, num_attention_heads=2).run_common_tests()


class DaliConfigTest(unittest.TestCase):
    model_tester = type("Tester", (), {"get_config": staticmethod(tiny_dali_config)})

    def test_the_configuration_of_the_model(self):
        ConfigTester(self, DaliConfig, has_text_modality=False, audio_projector="image").run_common_tests()
