"""Fields that several of the builds' configs have."""

from ml_collections import ConfigDict


def source(form, **more):
    """Return the fields of a source of rows.

    Args:
      form: how it is read, see `rsclip_jax.build.ingest.FORMS`.
      more: fields of one build's sources.
    """
    return ConfigDict(
        {
            "form": form,
            "path": "",  # as --input of rsclip_jax.prepare; "": left out
            "images": "",  # directory that the image paths of a table are relative to
            "encoding": "utf-8",  # of a table; gb18030 is common for Chinese text
            "class_folder": "first",  # of nested class folders, "first" or "last", gives the label
            "follow_links": False,  # read what links below the image root point to elsewhere
            "columns": {},  # role -> names of columns, where they are not the usual ones
            # Of rows that name none: train, val or test. Rows whose own begins with val or test
            # stay in these; all others are drawn. FusionRS draws all rows anew.
            "split": "",
            "licence": "",  # for the data card
            **more,
        }
    )


def endpoint():
    """Return the fields of a server of OpenAI's chat completions: vLLM, Ollama, a hosted one."""
    return ConfigDict(
        {
            "base_url": "",  # http://HOST:PORT/v1; "": no captions are written
            "model": "",  # as the server calls it
            "cache": "",  # directory of the answers that were paid for; "": WORKDIR/answers
            "api_key_env": "OPENAI_API_KEY",  # environment variable with the key, not the key
            "concurrency": 8,  # requests at once, of each process of the local runner
            "requests_per_minute": 0.0,  # of each process; 0: no limit
            "timeout": 120.0,  # seconds
            "image_side": 1024,  # larger images are sent reduced to it; 0: never
            "prompt_price": 0.0,  # of a million tokens, in any currency
            "completion_price": 0.0,
        }
    )
