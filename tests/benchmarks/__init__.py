import os

os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it when it is imported, which benchmarks do before their session
