"""The README.md of an exported folder: what the network is, what its pixels mean, how to load it, how good it is."""

from __future__ import annotations

from typing import Any

CARD = """\
---
library_name: {library}
pipeline_tag: {pipeline}
tags:
{tags}
---

# {title}

{what}

## Sensor card

{n_bands} bands, stored as {dtype}, {height} x {width} pixels{gsd}; nodata: {nodata}. \
The network sees {size} x {size} pixels.

| band | valid from | to | mean | std |
|---|---|---|---|---|
{bands}

A stored value x becomes (x - from) / (to - from), clipped to 0..1; \
nodata and NaN become the band's mean in the dataset;
then (value - mean) / std. Images of another size are resized (bilinear, antialiased).

## Use

With rsssl, stored pixels go in, and the checksums are tested first:

```python
import rsssl
network = rsssl.{loader}("{title}")  # this folder
{result} = network(pixels)  # pixels (B, {n_bands}, H, W) {dtype} -> {shape}
```

A sensor with other bands, dtype or valid range is refused unless `card=` and `adapt=` say what to do.

{timm}
{programs}{metrics}{provenance}
`sha256sum -c SHA256SUMS` checks all files but this one. \
The licence is for you to state (`license:` in the lines on top).
"""

TIMM = """\
With timm, values scaled to 0..1 as above and standardised go in, and {output} come out:

```python
import timm
model = timm.create_model("local-dir:{title}", pretrained=True).eval()  # or "hf-hub:you/name" once it is there
mean, std = (torch.tensor(model.pretrained_cfg[k])[:, None, None] for k in ("mean", "std"))
{result} = model((scaled - mean) / std)  # scaled (B, {n_bands}, {size}, {size}) float32
```
"""
NO_TIMM = "timm cannot build this network ({name}), so there is no config.json: load it with rsssl.\n"
OUTPUT = {
    "linear": "logits (their softmax are the probabilities)",
    "features": "features",
}
KINDS = {
    "linear": "A linear classifier",
    "neighbours": "A classifier by nearest neighbours",
    "propagated": "A classifier by nearest neighbours in a pool that the labels were spread over",
    "sum": "A linear classifier joined with the nearest neighbours in a pool that the labels were spread over,",
}


def model_card(about: dict[str, Any], title: str) -> str:
    """The text of README.md.

    Args:
        about: the content of rsssl.json.
        title: the folder's name.
    """
    card, spec = about["card"], about["spec"]
    classifier = about["kind"] == "classifier"
    network = spec["name"] + ("" if spec.get("depths", 1) == 1 else f" with {spec['depths']} depths joined")
    what = f"{network}, for Earth observation images as those of {card['name']}."
    result, shape = "features", "(B, D)"
    if classifier:
        result, shape = "probabilities", f"(B, {len(card['classes'])})"
        what = f"{KINDS[about['head']['kind']]} of {len(card['classes'])} classes on the features of {what}"
        what += f"\n\nClasses: {', '.join(card['classes'])}."
    rows = zip(card["bands"], card["low"], card["high"], about["mean"], about["std"], strict=True)
    tags = ["remote-sensing", "earth-observation", "rsssl", *(["timm"] if about["timm"] else [])]
    return CARD.format(
        library="timm" if about["timm"] else "rsssl",
        title=title,
        what=what,
        tags="\n".join(f"- {t}" for t in tags),
        pipeline="image-classification" if classifier else "image-feature-extraction",
        n_bands=len(card["bands"]),
        dtype=card["dtype"],
        height=card["size"][0],
        width=card["size"][1],
        size=about["size"],
        result=result,
        shape=shape,
        gsd="" if card["gsd"] is None else f" of {card['gsd']:g} m",
        nodata="none" if card["nodata"] is None else card["nodata"],
        bands="\n".join(f"| {b} | {lo:g} | {hi:g} | {m:.6g} | {s:.6g} |" for b, lo, hi, m, s in rows),
        loader="load_classifier" if classifier else "load_backbone",
        timm=_timm(about, title) if about["timm"] else NO_TIMM.format(name=network),
        programs=_programs(about, result) if about.get("programs") else "",
        metrics=_metrics(about["notes"]) if "oa" in about["notes"] else "",
        provenance=_provenance(about["notes"]),
    )


def _timm(about: dict[str, Any], title: str) -> str:
    """How timm loads the network, and what it then gives."""
    kind = about["head"]["kind"] if about["layer"] else "features"
    result = "logits" if kind == "linear" else kind
    n_bands = len(about["card"]["bands"])
    text = TIMM.format(output=OUTPUT[kind], title=title, n_bands=n_bands, size=about["size"], result=result)
    if about["kind"] == "classifier" and not about["layer"]:
        text += "\nThe classifier itself is no layer of timm's model (head.safetensors): load it with rsssl.\n"
    return text


def _programs(about: dict[str, Any], output: str) -> str:
    """What the programs in the folder take and give."""
    card, size = about["card"], about["size"]
    pixels = f"standardised values (B, {len(card['bands'])}, {size}, {size}) float32"
    if about["preprocessing"]:
        pixels = f"stored pixels (B, {len(card['bands'])}, {card['size'][0]}, {card['size'][1]}) {card['dtype']}"
    texts = {
        "model.onnx": f"* `model.onnx`: input `pixels`, output `{output}`, any batch size",
        "model.pt2": '* `model.pt2`: `torch.export.load("model.pt2").module()`, any batch size',
    }
    lines = [texts[name] for name in about["programs"]]
    return "\n".join([f"Without Python code of ours; they take {pixels}:", "", *lines, "", ""])


def _metrics(notes: dict[str, Any]) -> str:
    """The table of test results, with those of the baselines where they are known."""
    rows = {f"{notes.get('ssl')} + {notes.get('evaluate')}": notes}
    rows |= {name.replace("_", " "): scores for name, scores in (notes.get("baselines") or {}).items()}
    labels = f"{notes.get('n_train')} labelled images (ts={notes.get('ts')}, seed {notes.get('seed')})"
    lines = [f"| {n} | {100 * v['oa']:.1f} | {100 * v['aa']:.1f} | {v['kappa']:.3f} |" for n, v in rows.items()]
    table = "\n".join(["| | overall accuracy, % | average accuracy, % | kappa |", "|---|---|---|---|", *lines])
    return (
        f"## Results\n\nOn {notes.get('n_test')} test images of {notes.get('dataset')}, trained with {labels}, "
        f"protocol {notes.get('protocol')}; split `{notes.get('split_hash')}`.\n\n{table}\n\n"
    )


def _provenance(notes: dict[str, Any]) -> str:
    """How it was made: pre-training, versions, the configuration's hash."""
    lines = []
    if record := notes.get("pretrain"):
        known = [f"{k} {record[k]}" for k in ("dataset", "images", "epochs", "artifact") if record.get(k) is not None]
        lines.append(f"* pre-training: {', '.join(known)}")
        if start := record.get("start"):  # whose licence goes with the weights
            said = {k: start[k] for k in ("published", "sha256", "licence", "citation") if start.get(k)}
            lines.append(f"* trained from published weights: {', '.join(f'{k} {v}' for k, v in said.items())}")
    if versions := notes.get("versions"):
        lines.append("* versions: " + ", ".join(f"{k} {v}" for k, v in versions.items()))
    if config_hash := notes.get("config_hash"):
        lines.append(f"* configuration: `{config_hash}`")
    lines += [f"* {notes['command']}"] if "command" in notes else []
    return "## How it was made\n\n" + "\n".join(lines) + "\n\n" if lines else ""
