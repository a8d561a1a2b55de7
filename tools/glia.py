"""Result folders and weights for those who analyse in Python.

One file, to be copied beside a notebook or put on PYTHONPATH; needs nothing but Python 3.9. Where pandas is installed tables come as
DataFrames, else as lists of dicts; where numpy is installed tensors and matrices come as arrays, else as nested lists.

    import glia
    runs = glia.runs("results")                      a row a run: configuration, seed, accuracy, specialisation by layer …
    losses = glia.metrics("results/seed0/dense")     a row a line of metrics.jsonl
    u = glia.utilisation("results/seed0/softmax-moe", layer=4, cls=True)     topics, matrix [C, E]
    w = glia.weights("results/seed0/dense/model.safetensors")                {name: array}

From the shell:  python3 tools/glia.py results > runs.csv
"""
import csv
import json
import os
import struct
import sys

try:
    import numpy
except ImportError:
    numpy = None
try:
    import pandas
except ImportError:
    pandas = None


def _table(rows):
    return pandas.DataFrame(rows) if pandas else rows


def _read_json(path):
    with open(path, encoding="utf-8") as file:
        try:
            value = json.load(file)
        except ValueError as error:
            raise ValueError(f"{path}: expected JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def run_folders(out):
    """The run folders below `out` (a result folder, a seed folder or one run), in the order of their names."""
    found = [folder for folder, _, files in os.walk(out) if "config.json" in files]
    if not found:
        raise FileNotFoundError(f"{out}: expected a result folder, found no config.json below it")
    return sorted(found)


def run(folder):
    """One run as a flat dict; accuracy and all behind it are absent until the run is finished."""
    config = _read_json(os.path.join(folder, "config.json"))
    for key in ("config", "seed_index", "router", "protocol", "preset", "data"):
        if key not in config:
            raise ValueError(f"{folder}: expected a run's config.json, found one without \"{key}\"")
    row = {"folder": folder, "config": config["config"], "seed": config["seed_index"], "router": config["router"],
           "protocol": config["protocol"], "preset": config["preset"], "data": config["data"]["name"]}
    for part in ("model", "train", "options"):
        row.update({f"{part}.{key}": value for key, value in config.get(part, {}).items()})
    path = os.path.join(folder, "eval.json")
    if not os.path.exists(path):
        return row
    evaluation = _read_json(path)
    for key, value in evaluation.items():
        if isinstance(value, (int, float, str)):
            row[key] = value
    for name, value in zip(config["data"]["class_names"], evaluation.get("class_accuracy", [])):
        row[f"accuracy[{name}]"] = value
    for layer in evaluation.get("layers", []):
        for key, value in layer.items():
            if key != "layer" and isinstance(value, (int, float)):
                row[f"{key}[{layer['layer']}]"] = value
    return row


def runs(out):
    """A row a run."""
    return _table([run(folder) for folder in run_folders(out)])


def metrics(folder, kind=None):
    """A row a line of metrics.jsonl; kind: "train", "eval", or both. A half-written last line is left out."""
    rows = []
    with open(os.path.join(folder, "metrics.jsonl"), encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                row = json.loads(line)
                if kind in (None, row.get("kind")):
                    rows.append(row)
    return _table(rows)


def utilisation(folder, layer, cls=False):
    """Topics and the matrix [C, E] of one layer (from 1); topics without rows are NaN."""
    name = f"utilization_{'cls_' if cls else ''}layer{layer}.csv"
    with open(os.path.join(folder, name), newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))[1:]
    number = lambda text: float("nan") if text in ("", "n/a") else float(text)
    matrix = [[number(text) for text in line[1:]] for line in lines]
    return [line[0] for line in lines], numpy.array(matrix) if numpy else matrix


_FORMATS = {"F64": ("d", 8), "F32": ("f", 4), "F16": ("e", 2), "I64": ("q", 8), "I32": ("i", 4), "U8": ("B", 1), "I8": ("b", 1)}


def weights(path):
    """All tensors of a safetensors file: {name: array}; bfloat16 is widened to float32."""
    with open(path, "rb") as file:
        data = file.read()
    if len(data) < 8:
        raise ValueError(f"{path}: expected a safetensors file, got {len(data)} bytes")
    size = struct.unpack("<Q", data[:8])[0]
    if size > len(data) - 8:
        raise ValueError(f"{path}: its header would have {size} bytes, the file has {len(data)}")
    header, body, tensors = json.loads(data[8:8 + size]), memoryview(data)[8 + size:], {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        if end > len(body):
            raise ValueError(f"{path}: cut short: '{name}' ends at byte {end} of {len(body)}")
        raw = bytes(body[begin:end])
        if entry["dtype"] == "BF16":  # the upper half of a float32
            raw = b"".join(b"\0\0" + raw[i:i + 2] for i in range(0, len(raw), 2)) if not numpy else (
                numpy.frombuffer(raw, "<u2").astype("<u4") << 16).tobytes()
            code, width = _FORMATS["F32"]
        elif entry["dtype"] in _FORMATS:
            code, width = _FORMATS[entry["dtype"]]
        else:
            raise ValueError(f"{path}: '{name}' is {entry['dtype']}, which is not read here")
        if numpy:
            tensors[name] = numpy.frombuffer(raw, "<" + {"e": "f2"}.get(code, code)).reshape(entry["shape"])
        else:
            tensors[name] = _nested(struct.unpack(f"<{len(raw) // width}{code}", raw), entry["shape"])
    return tensors


def _nested(values, shape):
    """Lists of lists as the shape says; a tensor without axes is its number."""
    for extent in reversed(shape[1:]):
        values = [list(values[i:i + extent]) for i in range(0, len(values), extent)] if extent else []
    return list(values) if shape else values[0]


def _main(arguments):
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        print("usage: glia.py RESULTS > runs.csv", file=sys.stderr)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    try:
        rows = [run(folder) for folder in run_folders(arguments[0])]
    except (OSError, ValueError) as error:
        print(f"glia.py: {error}", file=sys.stderr)
        return 1
    keys = list(dict.fromkeys(key for row in rows for key in row))
    try:
        writer = csv.DictWriter(sys.stdout, keys)
        writer.writeheader()
        writer.writerows(rows)
        sys.stdout.flush()
    except BrokenPipeError:  # a reader like head has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
