#!/usr/bin/env python3
"""Fetches NVRTC, NVIDIA's compiler of kernels, as a Python package, and prints the folder of its library.

    LD_LIBRARY_PATH=$(tools/cuda/wheels.py target/cuda) ferrum kernels build --arch sm_90

It needs no card and no toolkit. The version is fixed, so that machine code can be compared.
"""
import pathlib
import subprocess
import sys
import zipfile

PACKAGE = "nvidia-cuda-nvrtc==13.5.37"


def main(folder: pathlib.Path) -> None:
    library = folder / "nvidia" / "cu13" / "lib"
    if not (library / "complete").exists():
        folder.mkdir(parents=True, exist_ok=True)
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", folder, PACKAGE]
        subprocess.run(download, check=True, stdout=sys.stderr)
        for wheel in folder.glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(folder)
            wheel.unlink()
        (library / "complete").touch()
    print(library.resolve())


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
