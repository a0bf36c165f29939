"""Finds the packages: `burstenv`, and the top-level folders that install inside its namespace."""

from setuptools import find_packages, setup

INSIDE = {"burstenv.agents": "agents", "burstenv.configs": "configs"}

packages = find_packages(include=["burstenv", "burstenv.*"])
for name, folder in INSIDE.items():
    packages += [name, *(f"{name}.{package}" for package in find_packages(folder))]

setup(packages=packages, package_dir={"burstenv": "burstenv", **INSIDE})
