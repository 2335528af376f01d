"""For browsers: an ONNX model with JavaScript that runs it, and a page."""

from __future__ import annotations

from pathlib import Path

from mobilette.artifact.contract import Contract
from mobilette.artifact.web_runtime import (
    ADDRESS,
    BUNDLED,
    FOLDER,
    INTEGRITY,
    RUNTIME,
    runtime_files,
    runtime_record,
)
from mobilette.exporters.onnx import ONNX, write_onnx
from mobilette.exporters.target import Calibration, Progress, Target, Written
from mobilette.model.model import Model

PAGE = Path(__file__).with_name("page")
MODULE = "mobilette.js"
PAGE_FILES = ("index.html", "page.css", "page.js", "sw.js", MODULE, "runtime.js", "golden.js")

_CODE = """\
Serve this folder over HTTP and open `index.html`: it takes images that are chosen, dropped or
pasted, and a camera. `python -m http.server` in this folder serves it at http://localhost:8000;
a camera, and use without a network, need https:// or localhost. `index.html?image=image.jpg`
begins with an image.

`runtime.json` says where onnxruntime-web comes from, with hashes that the page checks;
`mobilette export --to web --bundle` puts it into the folder.

The images are prepared by `mobilette.js`, as they were for the trained network; normalisation is
inside the model. In a page of your own:

```javascript
import {{ load, readImage }} from "./mobilette.js";

const classifier = await load("./");
const file = await (await fetch("image.jpg")).blob();
const {{ label, top, milliseconds }} = await classifier.classify(await readImage(file));
console.log(label, top[0].probability, milliseconds);
```"""


def write_web(
    model: Model, contract: Contract, calibration: Calibration | None, progress: Progress
) -> Written:
    """Write the ONNX model, the page that runs it and, in a bundle, onnxruntime-web."""
    written = write_onnx(model, contract, calibration, progress)
    bundled = runtime_files() if set(BUNDLE) <= set(contract.parts) else {}
    return Written(
        files={
            **written.files,
            **{name: (PAGE / name).read_bytes() for name in PAGE_FILES},
            RUNTIME: runtime_record(BUNDLED if bundled else ADDRESS),
            **{f"{FOLDER}/{name}": content for name, content in bundled.items()},
        },
        size_bytes=sum(map(len, written.files.values())),
    )


BUNDLE = tuple(f"{FOLDER}/{name}" for name in INTEGRITY)

WEB = Target(
    name="web",
    precisions=ONNX.precisions,
    packages=ONNX.packages,
    model=ONNX.model,
    parts=(*PAGE_FILES, RUNTIME),
    bundle=BUNDLE,
    input=ONNX.input,
    output=ONNX.output,
    writer=write_web,
    imports="",
    code=_CODE,
    language="javascript",
)
