"""Policies in routers that people run already: the decisions of ``burstenv serve`` without its relaying."""
