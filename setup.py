"""Packaging that pyproject.toml cannot express: the folders behind the links of `inspectd/`, the simulated camera."""

from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

SIMCAM = Path("runtime/simcam")
PRODUCER = "inspectd.runtime.simcam.inspectd_sim"


class BuildProducer(build_ext):
    """Builds a GenTL producer: a plain shared library, which consumers know by the ending .cti."""

    def get_ext_filename(self, fullname: str) -> str:
        """Path of the producer within the build."""
        return str(Path(*fullname.split(".")).with_suffix(".cti"))

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """What must be exported: no PyInit function, which a GenTL producer does not have."""
        return list(ext.export_symbols)


class PlatformWheel(bdist_wheel):
    """The producer is tied to the platform, not to a version of Python."""

    def get_tag(self) -> tuple[str, str, str]:
        """Python, ABI and platform of the wheel."""
        return "py3", "none", super().get_tag()[2]


setup(
    packages=find_packages(include=["inspectd", "inspectd.*"]),
    ext_modules=[
        Extension(
            PRODUCER,
            sources=[str(path) for path in sorted(SIMCAM.glob("*.c"))],
            depends=[str(path) for path in sorted([*SIMCAM.glob("*.h"), SIMCAM / "device.xml"])],
            define_macros=[("DEVICE_XML", f'"{(SIMCAM / "device.xml").absolute()}"')],
            extra_compile_args=["-std=gnu11", "-O2", "-g0", "-Wall", "-Wextra", "-fvisibility=hidden", "-pthread"],
            extra_link_args=["-pthread"],
            optional=True,  # without a C compiler everything but the simulated camera is installed
        )
    ],
    cmdclass={"build_ext": BuildProducer, "bdist_wheel": PlatformWheel},
)
