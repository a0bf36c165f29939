"""Headers of the file schemas."""

from __future__ import annotations

SIX = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
EIGHT = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type"
PLAIN = "arrival_s,prompt_tokens,output_tokens"
