"""Transformers' own server with a captioner in it: the model is ours, the routes, streaming and client errors theirs.

The library's server looks its models up in tables of its own and loads them by name, so that it knows no family of
other code. Here it is given a model that is loaded; of its routes those are kept that a captioner can answer.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

import transformers

from lavcap.arguments import check_packages
from lavcap.models.decoding import MOST
from lavcap.serving.media import Allowed, with_media
from modeling_captioning import CaptioningModel
from parts_captioning import WITHOUT_BEAMS
from processing_captioning import CaptioningProcessor


ROUTES = frozenset({"/v1/chat/completions", "/v1/models", "/health"})
PACKAGES = ("fastapi", "uvicorn", "openai", "pydantic")
LENGTHS = frozenset({"max_tokens", "max_completion_tokens"})  # of a request
SERVING = "transformers.cli.serving"


def check_library():
    """Refuse to go on without the packages of the library's server, or with a version that has none.

    Raises:
        ImportError: with what to install.
    """
    check_packages("The server", PACKAGES, "serve")
    if find_spec(f"{SERVING}.chat_completion") is None:
        raise ImportError(
            f"Transformers {transformers.__version__} has no server that takes the models of other code: install "
            "another version."
        )


def serve(
    model: CaptioningModel,
    processor: CaptioningProcessor,
    name: str,
    allowed: Allowed,
    host: str = "localhost",
    port: int = 8000,
    wait: bool = True,
) -> Any:
    """Answer requests until the process is told to end; those that are begun are finished.

    Args:
        name: by which clients call the model.
        allowed: what requests may name.
        wait: `False` runs the server in a thread, and returns it: `kill_server()` ends it.
    """
    from transformers.cli.serve import Serve

    with _captioner_in_the_library(model, processor, name, allowed):
        return Serve(force_model=name, host=host, port=port, non_blocking=not wait)


@contextmanager
def _captioner_in_the_library(
    model: CaptioningModel, processor: CaptioningProcessor, name: str, allowed: Allowed
) -> Iterator[None]:
    """Have the library's server find a captioner where it looks for its own models."""
    from transformers.cli.serving import chat_completion, model_manager, server
    from transformers.models.auto import modeling_auto

    class Handler(_handler_class(chat_completion)):
        limits, takes_words = allowed, processor.takes_instruction

    class Manager(model_manager.ModelManager):
        def load_model_and_processor(self, *args: Any, **options: Any) -> tuple[Any, Any]:
            return model, processor

        def get_gen_models(self) -> list[dict[str, Any]]:
            return [{"id": name, "object": "model", "owned_by": "", "created": int(time.time())}]

    build = server.build_server

    def build_small(*args: Any, **options: Any) -> Any:
        app = build(*args, **options)
        app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", None) in ROUTES]
        app.add_middleware(_Limited, most_bytes=2 * allowed.most_bytes)
        return app

    names = modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
    names[model.config.model_type] = type(model).__name__
    with (
        patch.object(chat_completion, "ChatCompletionHandler", Handler),
        patch.object(model_manager, "ModelManager", Manager),
        patch.object(server, "build_server", build_small),
    ):
        yield


def _handler_class(chat_completion: Any) -> type:
    """The library's handler of chats, with media read by [`Allowed`] and errors of a request told to its client."""
    from fastapi import HTTPException
    from fastapi.responses import JSONResponse

    class CaptionHandler(chat_completion.ChatCompletionHandler):
        limits: Allowed
        takes_words: bool

        async def handle_request(self, body: dict, request_id: str) -> Any:
            try:
                if body.get("chat_template_kwargs") or body.get("generation_config"):
                    raise ValueError("chat_template_kwargs and generation_config are not taken here: leave them out.")
                messages = await asyncio.to_thread(with_media, body.get("messages"), self.limits, self.takes_words)
                body = body | {"messages": messages, "chat_template_kwargs": {"num_frames": None}}
                return await super().handle_request(body, request_id)
            except HTTPException as error:
                return _refusal(JSONResponse, error.status_code, str(error.detail))
            except (ValueError, TypeError, OSError) as error:
                return _refusal(JSONResponse, 400, " ".join(str(error).split()))

        def _build_generation_config(self, body: dict, model_generation_config: Any, use_cb: bool = False) -> Any:
            config = super()._build_generation_config(body, model_generation_config, use_cb=use_cb)
            if not any(body.get(name) for name in LENGTHS):  # the server would allow a thousand tokens
                config.max_new_tokens = model_generation_config.max_new_tokens
            if body.get("stream"):  # tokens come one by one, so that no beam can be taken back
                config.update(num_beams=1, **WITHOUT_BEAMS)
            for option, most in MOST.items():
                value = getattr(config, option, None)
                if value is not None and not 1 <= value <= most:
                    raise ValueError(f"{option} is {value}, expected 1 to {most}.")
            return config

    return CaptionHandler


def _refusal(response: type, status: int, message: str) -> Any:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return response({"error": {"message": message, "type": kind, "code": status}}, status_code=status)


class _Limited:
    """ASGI middleware that refuses a request whose body is too large, before it is read."""

    def __init__(self, app: Any, most_bytes: int):
        self.app, self.most_bytes = app, most_bytes

    async def __call__(self, scope: dict, receive: Any, send: Any):
        headers = dict(scope.get("headers") or ())
        length = headers.get(b"content-length")
        body = scope["type"] == "http" and scope["method"] == "POST"
        if body and (length is None or not length.isdigit() or int(length) > self.most_bytes):
            from starlette.responses import JSONResponse

            message = (
                f"Expected a request with its length, of at most {self.most_bytes >> 20} MiB; send a smaller clip."
            )
            await _refusal(JSONResponse, 413, message)(scope, receive, send)
            return
        await self.app(scope, receive, send)
