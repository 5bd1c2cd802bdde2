"""The chat-completions protocol: what is sent, what comes back, and by what an answer is known."""

import base64
import contextlib
import dataclasses
import datetime
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from rsclip_jax.build.answers import Fields, json_schema
from rsclip_jax.data import images
from rsclip_jax.data.orientation import UPRIGHT, orientation
from rsclip_jax.data.pillow import open_image
from rsclip_jax.data.text import without_surrogates

_JPEG_QUALITY = 90
# Earlier answers of the model that were not valid, and why.
Turns = Sequence[tuple[str, str]]


class UnreadableBody(Exception):
    """Status 200 with something that is no answer."""


@dataclasses.dataclass(frozen=True)
class Request:
    """One question. What is in it, the model and `image_side` are all an answer depends on.

    Attributes:
      system, user: the prompt.
      fields: of the JSON object to answer with.
      sampling: parameters of the request by the server's own names, such as temperature.
      images: encoded, sent before the user's text.
    """

    system: str
    user: str
    fields: Fields
    sampling: Mapping[str, Any]
    images: tuple[bytes, ...] = ()


def request_key(request: Request, turns: Turns, model: str, image_side: int) -> str:
    """Return the SHA-256 of all that the answer depends on, images by the hash of their bytes."""
    content = {
        "model": model,
        "system": request.system,
        "user": request.user,
        "fields": dict(request.fields),
        "sampling": dict(request.sampling),
        "images": [hashlib.sha256(image).hexdigest() for image in request.images],
        "image_side": image_side if request.images else 0,
        "turns": list(turns),
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def response_format(fields: Fields) -> dict[str, Any]:
    """Return the parameter that makes a server which knows it answer with these fields only."""
    schema = {"name": "answer", "strict": True, "schema": json_schema(fields)}
    return {"type": "json_schema", "json_schema": schema}


def messages_of(request: Request, turns: Turns, image_side: int) -> list[dict]:
    """Write the messages of a request.

    Raises:
      ValueError: an image cannot be read.
    """
    prompt = without_surrogates(request.user)
    user: Any = prompt
    if request.images:  # Text alone stays a string: servers without vision know no parts.
        urls = [_data_url(image, image_side) for image in request.images]
        user = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        user.append({"type": "text", "text": prompt})
    messages: list[dict] = [
        {"role": "system", "content": request.system},
        {"role": "user", "content": user},
    ]
    for answer, problem in turns:
        complaint = f"Your answer cannot be used: {problem}. Answer again, the JSON object only."
        answer = without_surrogates(answer) or "(nothing)"
        messages.append({"role": "assistant", "content": answer})
        messages.append({"role": "user", "content": complaint})
    return messages


def read_body(text: str, model: str) -> dict[str, Any]:
    """Take what is stored out of the body of a response.

    Args:
      text: the body.
      model: that was asked; also told as the one that answered if the server does not tell.

    Raises:
      UnreadableBody: it is no chat completion.
    """
    try:
        body = json.loads(text)
        if error := body.get("error"):
            message = error.get("message", error) if isinstance(error, dict) else error
            raise UnreadableBody(f"status 200 with an error: {message!s:.300}")
        choice = body["choices"][0]
        message = choice["message"]
        content = message.get("content")
        if isinstance(content, list):  # parts, as some servers answer
            content = "".join(part.get("text", "") for part in content)
        usage = body.get("usage") or {}
        counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise UnreadableBody(f"status 200, but the body is no chat completion: {error!r}") from None
    reason = choice.get("finish_reason")
    refusal = message.get("refusal") or ("content filter" if reason == "content_filter" else "")
    return {
        "text": content if isinstance(content, str) else "",
        "refusal": str(refusal),
        "finish_reason": str(reason),
        "model": str(body.get("model") or model),
        "requested_model": model,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "prompt_tokens": counts[0] if isinstance(counts[0], int) else None,
        "completion_tokens": counts[1] if isinstance(counts[1], int) else None,
    }


def _data_url(data: bytes, side: int) -> str:
    """Encode an image as every server can read it: upright JPEG or PNG of 8 bits, not too large."""
    form, mode = "", ""
    with contextlib.suppress(OSError), open_image(data) as image:  # the header
        form, mode = image.format or "", image.mode
    fits = not side or max(images.dimensions(data)) <= side
    turned = orientation(data) != UPRIGHT  # which servers may not look at
    if form not in ("JPEG", "PNG") or mode not in ("L", "RGB") or turned or not fits:
        pixels = Image.fromarray(images.decode(data))
        if not fits:
            pixels.thumbnail((side, side), Image.Resampling.BICUBIC)
        form = "JPEG"
        data = simplejpeg.encode_jpeg(np.asarray(pixels), quality=_JPEG_QUALITY)
    return f"data:image/{form.lower()};base64,{base64.b64encode(data).decode()}"
