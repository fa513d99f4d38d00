"""A server in this process: models of a Triton repository, fed by NumPy arrays that cross without a copy.

python main.py [REPOSITORY with a model add_sub]
"""

import sys
from pathlib import Path

import numpy as np

import tensorferry

repository = sys.argv[1] if len(sys.argv) > 1 else Path(tensorferry.__file__).parent / "demo_models"

with tensorferry.Server(repository, models=["add_sub"]) as server:
    model = server.model("add_sub")

    a, b = model.empty(1 << 20, np.float32), model.empty(1 << 20, np.float32)  # born in shared memory
    a[:], b[:] = 3, 1
    out = model.infer({"INPUT0": a, "INPUT1": b})  # a and b are given: nothing is copied
    print("sum:", np.asarray(out["OUTPUT0"])[:3], " difference:", np.asarray(out["OUTPUT1"])[:3])

    pending = [model.infer_async({"INPUT0": np.full(4, i, np.float32), "INPUT1": np.ones(4, np.float32)}) for i in range(4)]
    print("four at once:", [float(np.asarray(future.result()["OUTPUT0"])[0]) for future in pending])

    try:
        model.infer({"INPUT0": np.zeros(4, np.float32)})
    except tensorferry.Error as error:
        print(f"{error.code}: {error}")

    print("bytes copied in the model's process:", server.statistics()["add_sub"]["stub_copied_bytes"])
