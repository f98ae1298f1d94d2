"""Builds the C++ kernels as one plain shared library beside mixaug_ext; everything else is in pyproject.toml.

The library has no Python or torch symbols: it is loaded with ctypes. So the wheel is tagged ``py3-none-<platform>``
and serves every supported Python and torch. A missing or failing compiler never fails the installation.
"""

import sys

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext


class PlainLibrary(build_ext):
    """Builds ``mixaug_ext/_kernels.so``: no interpreter tag in the name, no module initialiser to export."""

    def get_ext_filename(self, fullname: str) -> str:
        suffix = ".dll" if sys.platform == "win32" else ".so"
        return fullname.replace(".", "/") + suffix

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []


class AnyPython(bdist_wheel):
    """Tags the wheel for any Python 3 on this platform, since nothing in it depends on the interpreter."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


if sys.platform == "win32":
    flags, links = ["/O2", "/std:c++17", "/fp:precise"], []
else:
    # -ffp-contract=off: a fused multiply-add rounds differently from PyTorch's two operations.
    # -fno-trapping-math: nobody reads the floating-point flags, and clipping is vectorised only without them; no
    # result changes by it.
    flags = ["-O3", "-std=c++17", "-ffp-contract=off", "-fno-trapping-math", "-fvisibility=hidden", "-pthread"]
    flags += ["-Wall", "-Wextra"]
    links = ["-pthread"]

setup(
    ext_modules=[
        Extension(
            "mixaug_ext._kernels",
            sources=["mixaug_ext/csrc/ipmix.cpp"],
            language="c++",
            extra_compile_args=flags,
            extra_link_args=links,
            optional=True,
        )
    ],
    cmdclass={"build_ext": PlainLibrary, "bdist_wheel": AnyPython},
)
