"""Builds the kernels as plain shared libraries beside mixaug_ext; everything else is in pyproject.toml.

``_kernels`` is C++; ``_cuda`` is CUDA, built where nvcc is found and a GPU is visible, or without one on
``FORCE_CUDA=1`` (then for every architecture that this nvcc knows, or for MIXAUG_CUDA_ARCH, an ``-arch`` of nvcc such
as ``sm_90``). Neither has a Python or torch symbol: they are loaded with ctypes. So the wheel is tagged
``py3-none-<platform>`` and serves every supported Python and torch. A missing or failing compiler never fails the
installation, except nvcc's when FORCE_CUDA asked for it.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

CSRC = "mixaug_ext/csrc"
HEADERS = [
    f"{CSRC}/{name}.h" for name in ("capped_relu", "composite", "cuda_common", "fractals_render", "ipmix", "isa")
]
FORCED = os.environ.get("FORCE_CUDA", "") not in ("", "0")


def find_nvcc() -> str | None:
    """nvcc of CUDA_HOME, of the path, or of its usual place."""
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    places = [Path(home) / "bin" for home in homes if home]
    return (
        shutil.which("nvcc", path=os.pathsep.join(map(str, places)))
        or shutil.which("nvcc")
        or shutil.which("nvcc", path="/usr/local/cuda/bin")
    )


def gpu_visible() -> bool:
    """Whether the driver shows a GPU, asked without CUDA or torch."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


class PlainLibrary(build_ext):
    """Builds ``mixaug_ext/_kernels.so``: no interpreter tag in the name, no module initialiser to export."""

    def get_ext_filename(self, fullname: str) -> str:
        suffix = ".dll" if sys.platform == "win32" else ".so"
        return fullname.replace(".", "/") + suffix

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []

    def build_extension(self, ext: Extension) -> None:
        if ext.name != "mixaug_ext._cuda":
            super().build_extension(ext)
            return
        nvcc = find_nvcc()
        if nvcc is None:
            raise RuntimeError("FORCE_CUDA=1 needs nvcc, and none was found in CUDA_HOME or on the PATH")
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        command = [nvcc, *ext.extra_compile_args, *ext.sources, "-o", str(target)]
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            if FORCED:
                raise RuntimeError(f"FORCE_CUDA=1, but nvcc failed: {error}") from error
            print(f"mixaug: the CUDA kernels were not built, PyTorch code does their work: {error}", file=sys.stderr)


class AnyPython(bdist_wheel):
    """Tags the wheel for any Python 3 on this platform, since nothing in it depends on the interpreter."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


if sys.platform == "win32":
    flags, links = ["/O2", "/std:c++17", "/fp:precise"], []
    host = "/MD"
else:
    # -ffp-contract=off: a fused multiply-add rounds differently from PyTorch's two operations.
    # -fno-math-errno: nor errno, which a vector of square roots cannot set.
    # -fno-trapping-math: nobody reads the floating-point flags, and clipping is vectorised only without them; no
    # result changes by it.
    flags = ["-O3", "-std=c++17", "-ffp-contract=off", "-fno-trapping-math", "-fno-math-errno"]
    flags += ["-fvisibility=hidden", "-pthread", "-Wall", "-Wextra", "-Wno-maybe-uninitialized"]
    # Stripped: 3.5 MB become 0.6; what is called from outside stays.
    links = ["-pthread", *(["-Wl,--strip-all"] if sys.platform.startswith("linux") else [])]
    host = "-fPIC,-fvisibility=hidden,-Wall,-Wextra"

extensions = [
    Extension(
        "mixaug_ext._kernels",
        sources=[
            f"{CSRC}/{name}.cpp" for name in ("capped_relu", "composite", "fractals", "ipmix", "mixcut", "records")
        ],
        depends=HEADERS,
        language="c++",
        extra_compile_args=flags,
        extra_link_args=links,
        optional=True,
    )
]
if FORCED or (find_nvcc() is not None and gpu_visible()):
    # -fmad=false: as -ffp-contract=off above. A static runtime: none of its version has to be found at loading.
    arch = os.environ.get("MIXAUG_CUDA_ARCH") or ("all-major" if FORCED else "native")
    options = ["-O3", "-std=c++17", "-fmad=false", f"-arch={arch}", "--threads=0", "-shared", "-cudart=static"]
    extensions.append(
        Extension(
            "mixaug_ext._cuda",
            sources=[f"{CSRC}/{name}.cu" for name in ("capped_relu", "composite", "ipmix", "cuda_info")],
            depends=HEADERS,
            extra_compile_args=[*options, "-Xcompiler", host],
        )
    )

setup(ext_modules=extensions, cmdclass={"build_ext": PlainLibrary, "bdist_wheel": AnyPython})
