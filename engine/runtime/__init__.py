"""The runtime: edits come in as tickets, share one loop, and leave as results.

:class:`~engine.runtime.core.Runtime` owns the loop; everything that edits is its client.
"""
