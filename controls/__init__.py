"""Controls: what steers an edit beside its text. ControlNets join the loop here.

A control is anything with the ``residuals`` method of :class:`engine.loop.Control`; the loop adds
what it returns to the network's own features. Plug-ins of this package never import strategies.
"""
