#!/usr/bin/env python3
"""Reads event files back with TensorBoard's own reader and compares them with what was written.

    GLIA_TENSORBOARD=/tmp/tb build/cpu/run_tests -ns -tc='*TensorBoard to read*'
    python3 tests/peer/tensorboard_read.py /tmp/tb

Also accepts the folder of a real run (without expected.json): lists its tags and checks them against metrics.jsonl.
"""
import json
import math
import os
import sys

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

folder = sys.argv[1]
accumulator = EventAccumulator(folder, size_guidance={"scalars": 0, "histograms": 0})
accumulator.Reload()
scalars, histograms = set(accumulator.Tags()["scalars"]), set(accumulator.Tags()["histograms"])
checks = 0


def same(got, wanted, what):
    global checks
    checks += 1
    if isinstance(wanted, float) and math.isnan(wanted):
        assert math.isnan(got), f"{what}: got {got}, wanted nan"
    else:
        assert got == wanted, f"{what}: got {got}, wanted {wanted}"


def f32(x):
    return float(np.float32(x))


path = os.path.join(folder, "expected.json")
if os.path.exists(path):
    expected = json.load(open(path))
    same(scalars, set(expected["tags"]), "scalar tags")
    for tag, rows in expected["scalars"].items():
        events = accumulator.Scalars(tag)
        same(len(events), len(rows), f"{tag}: number of events")
        for event, (wall_time, step, value) in zip(events, rows):
            same(event.wall_time, wall_time, f"{tag}: wall time")
            same(event.step, step, f"{tag}: step")
            same(event.value, f32(value), f"{tag}: value at {step}")
    same(accumulator.Scalars("extra/nan")[0].value, float("nan"), "a NaN")
    same(accumulator.Scalars("extra/large")[0].step, 1 << 40, "a large step")
    same(accumulator.Scalars("extra/large")[0].value, f32(-1e30), "a large value")
    for tag, rows in expected["bars"].items():
        events = accumulator.Histograms(tag)
        same(len(events), len(rows), f"{tag}: number of histograms")
        for event, (step, loads) in zip(events, rows):
            same(event.step, step, f"{tag}: step")
            same(list(event.histogram_value.bucket), [0.0] + loads, f"{tag}: bars at {step}")
            same(list(event.histogram_value.bucket_limit), [i - 0.5 for i in range(len(loads) + 1)], f"{tag}: limits")
    session = plugin_data_pb2.HParamsPluginData.FromString(
        accumulator.PluginTagToContent("hparams")["_hparams_/session_start_info"]).session_start_info
    same(session.group_name, expected["hparams"]["group"], "hparams group")
    same(session.start_time_secs, accumulator.Scalars("train/loss")[0].wall_time - 1, "session start")
    got = {name: getattr(value, value.WhichOneof("kind")) for name, value in session.hparams.items()}
    same(got, expected["hparams"]["values"], "hparams")
    wanted = expected["histogram"]
    h = accumulator.Histograms(wanted["tag"])[0]
    same(h.step, wanted["step"], "histogram step")
    same(h.histogram_value.num, wanted["num"], "histogram num")
    same(h.histogram_value.min, wanted["min"], "histogram min")
    same(h.histogram_value.max, wanted["max"], "histogram max")
    assert abs(h.histogram_value.sum - wanted["sum"]) < 1e-6, "histogram sum"
    same(sum(h.histogram_value.bucket), wanted["num"], "histogram counts")
else:
    lines = [json.loads(line) for line in open(os.path.join(folder, "metrics.jsonl"))]
    for kind, key, tag in [("train", "loss", "train/loss"), ("train", "lr", "train/lr"), ("eval", "accuracy", None)]:
        for split in {line.get("split") for line in lines if line["kind"] == kind}:
            name = tag or f"{split}/accuracy"
            rows = [line for line in lines if line["kind"] == kind and line.get("split") == split]
            events = {event.step: event.value for event in accumulator.Scalars(name)}
            for row in rows:
                value = float("nan") if row[key] is None else f32(row[key])
                same(events.get(row["step"]), value, f"{name} at {row['step']}")
print(f"OK: {checks} comparisons, {len(scalars)} scalar tags, {len(histograms)} histogram tags")
