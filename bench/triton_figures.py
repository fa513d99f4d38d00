"""What Triton's own Python backend took for the same job: figures of another run, for orientation.

No ratio is made from them. Identity model, one request in flight, from submit to the response callback, in the server's own
process by the C API (no network); microseconds, p50 and p99 as medians over interleaved rounds, best the smallest p50 of a
round. `floor_p50` is a C++ backend that does nothing but one memcpy: what Triton's core itself takes.
"""

from __future__ import annotations

SOURCE = (
    "libtritonserver 2.51.0 (API 1.34) with its Python backend, in-process C API, unpinned; 2 vCPUs of an AMD EPYC (Zen 5) "
    "guest under KVM, Linux 6.18, Python 3.11.7, NumPy 1.26.4, load 0.3 to 5"
)

IDENTITY = [
    {"size": 4, "best": 28.7, "p50": 30.3, "p99": 252.0, "floor_p50": 3.3},
    {"size": 4 << 10, "best": 28.5, "p50": 29.8, "p99": 110.0, "floor_p50": 3.2},
    {"size": 64 << 10, "best": 34.4, "p50": 37.9, "p99": 140.0, "floor_p50": 3.7},
    {"size": 1 << 20, "best": 123.0, "p50": 124.0, "p99": 595.0, "floor_p50": 24.0},
    {"size": 16 << 20, "best": 3144.0, "p50": 3414.0, "p99": 8546.0, "floor_p50": 565.0},
    {"size": 64 << 20, "best": 18621.0, "p50": 25647.0, "p99": 37404.0, "floor_p50": 3484.0},
    {"size": 256 << 20, "best": 68209.0, "p50": 76122.0, "p99": 124455.0, "floor_p50": 15334.0},
]

# One instance, max_batch_size 0, 4 B, unpinned: requests per second by requests in flight.
RATE_4_BYTES = {1: 14_000, 4: 15_400, 16: 14_700, 64: 14_600}
