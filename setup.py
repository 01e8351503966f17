"""Packaging of LAVCap for Transformers: the flat model files, the training script and the `lavcap` package."""

from pathlib import Path

from setuptools import find_packages, setup


# The families, and what they share: `configuration_lavcap`, `media_captioning`, …
FLAT_FILES = sorted(path.stem for path in Path(__file__).resolve().parent.glob("*_*.py") if path.stem != "train_hf")

setup(
    name="lavcap",
    version="0.1.0",
    description="LAVCap, an LLM-based audio-visual captioner aligned by optimal transport, for Transformers",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["lavcap", "lavcap.*"]),
    package_data={
        "lavcap.data": ["audiocaps_test_ids.txt"],
        "lavcap.page": ["style.css"],
        "lavcap.publishing": ["families/*.yaml"],
    },
    data_files=[("share/lavcap", ["model_card.md"])],
    py_modules=[*FLAT_FILES, "train_hf"],
    entry_points={"console_scripts": ["lavcap = lavcap.commands:main"]},
    install_requires=[
        "torch>=2.6",
        "transformers>=5.10.4,<6",
        "accelerate>=1.10",
        "peft>=0.19",
        "datasets>=4.0",
        "evaluate>=0.4.6",
        "safetensors>=0.5",
        "huggingface_hub>=1.5",
        "jinja2>=3.1",  # fills the model card
        "av>=17.1",  # before, a damaged MPEG stream ended the process, and in 16 films in BT.709 had other colours
        "numpy>=1.26",
        "packaging>=23",
        "pillow>=10",
        "pycocoevalcap>=1.2",
        "pyyaml>=6",
        "tqdm>=4.66",
    ],
    extras_require={
        "deepspeed": ["deepspeed>=0.19"],  # the Makefile has what lets it install without a compiler
        "demo": ["gradio>=6.31", "matplotlib>=3.8"],
        "fense": ["aac-metrics==0.5.2"],  # later ones need msclap, and that Transformers below 5 and NumPy below 2
        "report": ["filelock>=3.12", "matplotlib>=3.8", "scipy>=1.11", "tensorboard>=2.16"],
        "serve": ["fastapi>=0.115", "openai>=1.98", "pydantic>=2", "uvicorn>=0.30"],  # of Transformers' own server
        "quantization": ["bitsandbytes>=0.45"],
        "transport": ["pot>=0.9.5"],  # DALI's alignment by exact optimal transport
        "torchaudio": ["torchaudio"],  # of the build that fits the installed torch
        "test": [
            "axe-playwright-python>=0.1.8",
            "bitsandbytes>=0.45",
            "fastapi>=0.115",
            "filelock>=3.12",
            "gradio>=6.31",
            "matplotlib>=3.8",
            "openai>=1.98",
            "parameterized>=0.9",
            "playwright>=1.50",
            "pot>=0.9.5",
            "pytest>=8",
            "pytest-xdist>=3.5",
            "ruff>=0.9",
            "scipy>=1.11",
            "soundfile>=0.12",
            "soxr>=0.5",
            "tensorboard>=2.16",
            "uvicorn>=0.30",
        ],
    },
)
