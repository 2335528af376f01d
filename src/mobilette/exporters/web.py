"""Browsers: the ONNX model, a module that runs it with onnxruntime-web, and a page."""

from __future__ import annotations

import json
from pathlib import Path

from mobilette.artifact.contract import Contract
from mobilette.exporters.onnx import ONNX
from mobilette.exporters.target import Calibration, Prepared, Target, Written

PAGE = Path(__file__).with_name("page")
MODULE = "mobilette.js"
PAGE_FILES = ("index.html", MODULE)
PACKAGE = "package.json"
# An ONNX file of today's opset needs no newer one; its patches are taken.
VERSION = "~1.30.0"

_CODE = """\
The images are prepared by `mobilette.js`, as they were for the trained network; normalisation is
inside the model. Once, in this folder: `npm install --ignore-scripts` (or change the one address in
`mobilette.js` to that of a CDN). The folder has to be served over HTTP: `npx serve`, or
`python -m http.server`; `index.html` is a page that takes images, and so is
`index.html?image=image.jpg`.

```javascript
import {{ load, readImage }} from "./mobilette.js";

const classifier = await load("./");
const file = await (await fetch("image.jpg")).blob();
const {{ top, milliseconds }} = await classifier.classify(await readImage(file));
console.log(top[0].label, top[0].probability, milliseconds);
```"""


def write_web(prepared: Prepared, contract: Contract, calibration: Calibration | None) -> Written:
    """Write the ONNX model, and beside it what a browser needs to run it."""
    model = ONNX.writer(prepared, contract, calibration).files[ONNX.model]
    package = {"private": True, "type": "module", "dependencies": {"onnxruntime-web": VERSION}}
    return Written(
        files={
            contract.model: model,
            PACKAGE: (json.dumps(package, indent=2) + "\n").encode(),
            **{name: (PAGE / name).read_bytes() for name in PAGE_FILES},
        }
    )


WEB = Target(
    name="web",
    precisions=ONNX.precisions,
    packages=ONNX.packages,
    model=ONNX.model,
    parts=(*PAGE_FILES, PACKAGE),
    input=ONNX.input,
    output=ONNX.output,
    writer=write_web,
    imports="",
    code=_CODE,
    language="javascript",
)
