"""The service: one model behind HTTP. ``softpaint serve`` and ``softpaint studio`` run it.

From the wire inwards:

- :mod:`engine.serve.guard` refuses what is too large, too slow, of another host or without a token,
  before any of it is read;
- :mod:`engine.serve.routes` speaks: the own API, OpenAI's, A1111's, and health;
- :mod:`engine.serve.wire` reads settings and pictures from requests, and writes pictures;
- :mod:`engine.serve.service` holds jobs and sessions, within :mod:`engine.serve.limits`;
- :mod:`engine.serve.worker` is the one thread that owns the model and steps the runtime.

``README.md`` beside this file is the HTTP contract.
"""
