#!/usr/bin/env python3
"""Writes a safetensors file of float32 tensors as torch.save would, with the standard library alone:

    torch_file.py model.safetensors pytorch_model.bin
"""
import json
import struct
import sys
import zipfile

source, target = sys.argv[1:]
data = open(source, "rb").read()
size = struct.unpack("<Q", data[:8])[0]
header = {name: row for name, row in json.loads(data[8:8 + size]).items() if name != "__metadata__" and row["dtype"] == "F32"}


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def whole(value):
    return b"J" + struct.pack("<i", value)


def numbers(values):
    return b"(" + b"".join(map(whole, values)) + b"t"


pickle = b"\x80\x02ccollections\nOrderedDict\n)R("
with zipfile.ZipFile(target, "w") as archive:
    for key, (name, row) in enumerate(header.items()):
        begin, end = row["data_offsets"]
        archive.writestr(f"archive/data/{key}", data[8 + size + begin:8 + size + end])
        strides, step = [], 1
        for extent in reversed(row["shape"]):
            strides.insert(0, step)
            step *= extent
        pickle += text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + b"ctorch\nFloatStorage\n"
        pickle += text(str(key)) + text("cpu") + whole((end - begin) // 4) + b"tQ" + whole(0)
        pickle += numbers(row["shape"]) + numbers(strides) + b"\x89ccollections\nOrderedDict\n)RtR"
    archive.writestr("archive/data.pkl", pickle + b"u.")
    archive.writestr("archive/version", "3\n")
