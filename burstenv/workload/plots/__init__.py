"""Pictures of traces: one trace by itself, and a generated one beside a real one."""
