"""The subcommands of ``mixaug``: each module has ``arguments(parser)`` and ``run(options)``."""
