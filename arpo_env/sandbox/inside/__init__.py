"""The code that runs INSIDE the isolation: standard library only, no import of the rest of ``arpo_env``.

It is sent as source over the control stream when a sandbox starts (see :mod:`..bundle`), so nothing of this
repository has to be mounted into a namespace or baked into a container image, and both sides always have
the same version. Who is trusted: ``supervisor`` and ``enter`` never run user code; ``session`` and ``cell``
share a process with it and are therefore believed in nothing but "my own cell ended".
"""
