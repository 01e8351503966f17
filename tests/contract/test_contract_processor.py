"""Transformers' common processor and feature extractor tests on those of each family."""

import unittest

import numpy as np
from contract_skips import AVCAP_PROCESSOR, DALI_PROCESSOR, FEATURE_EXTRACTOR, PROCESSOR
from library_tests import skipping
from library_tests.test_processing_common import ProcessorTesterMixin
from library_tests.test_sequence_feature_extraction_common import SequenceFeatureExtractionTestMixin
from tokenizers.processors import TemplateProcessing
from transformers import CLIPImageProcessorPil

import lavcap  # noqa: F401, for the Auto classes
from lavcap.toy.dataset import train_tokenizer
from processing_avcap import AvcapFeatureExtractor, AvcapProcessor
from processing_dali import DaliFeatureExtractor, DaliProcessor
from processing_lavcap import LavcapFeatureExtractor, LavcapProcessor


@skipping(PROCESSOR)
class LavcapProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = LavcapProcessor
    images_input_name = "pixel_values_videos"

    @classmethod
    def _setup_feature_extractor(cls):
        return LavcapFeatureExtractor(max_frames=48)

    @classmethod
    def _setup_image_processor(cls):
        return CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})

    @classmethod
    def _setup_tokenizer(cls):
        tokenizer = train_tokenizer(["lower newer upper older longer string"])
        first = (tokenizer.bos_token, tokenizer.bos_token_id)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{first[0]} $A", special_tokens=[first]
        )
        return tokenizer  # which writes its first token, as LLaMA-2's

    @staticmethod
    def prepare_processor_dict():
        return {"num_audio_tokens": 3, "num_video_frames": 4}


@skipping(PROCESSOR | AVCAP_PROCESSOR)
class AvcapProcessorTest(LavcapProcessorTest):
    processor_class = AvcapProcessor

    @classmethod
    def _setup_feature_extractor(cls):
        return AvcapFeatureExtractor(max_frames=48)

    @staticmethod
    def prepare_processor_dict():
        return {"num_audio_tokens": 24, "num_video_tokens": 8, "num_video_frames": 4}


@skipping(PROCESSOR | DALI_PROCESSOR)
class DaliProcessorTest(LavcapProcessorTest):
    processor_class = DaliProcessor

    @classmethod
    def _setup_feature_extractor(cls):
        return DaliFeatureExtractor(max_frames=48)

    @staticmethod
    def prepare_processor_dict():
        sizes = {"num_audio_tokens": 24, "num_video_tokens": 4, "num_prefix_tokens": 2}
        return sizes | {"prompt": "USER: {av} {instruction}\nASSISTANT:"}  # shorter than what the tests pad to


class FeatureExtractorTester:
    """Sequences of features of several lengths, for the padding that extractors share."""

    batch_size, feature_size = 4, 8
    min_seq_length, max_seq_length = 40, 100
    seq_length_diff = 20

    def prepare_feat_extract_dict(self):
        return {"feature_size": self.feature_size, "sampling_rate": 16000, "padding_value": 0.0, "max_frames": 48}

    def prepare_inputs_for_common(self, equal_length: bool = False, numpify: bool = False):
        lengths = range(self.min_seq_length, self.max_seq_length, self.seq_length_diff)
        lengths = [self.max_seq_length] * self.batch_size if equal_length else [*lengths, self.max_seq_length]
        rows = [np.random.default_rng(length).normal(size=(length, self.feature_size)) for length in lengths]
        return rows if numpify else [row.tolist() for row in rows]


@skipping(FEATURE_EXTRACTOR)
class LavcapFeatureExtractorTest(SequenceFeatureExtractionTestMixin, unittest.TestCase):
    feature_extraction_class = LavcapFeatureExtractor

    def setUp(self):
        self.feat_extract_tester = FeatureExtractorTester()


@skipping(FEATURE_EXTRACTOR)
class AvcapFeatureExtractorTest(LavcapFeatureExtractorTest):
    feature_extraction_class = AvcapFeatureExtractor


@skipping(FEATURE_EXTRACTOR)
class DaliFeatureExtractorTest(LavcapFeatureExtractorTest):
    feature_extraction_class = DaliFeatureExtractor
