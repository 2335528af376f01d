// onnxruntime-web, from the addresses in runtime.json; a file with another hash is refused.

/** Return runtime.json of the artifact at `base`: {package, version, address, kinds, integrity}. */
export async function readRuntime(base) {
  const where = new URL("runtime.json", base);
  const response = await fetch(where, { cache: "no-cache" });
  if (!response.ok) throw new Error(`${where}: ${response.status} ${response.statusText}`);
  const runtime = await response.json();
  return { ...runtime, address: new URL(runtime.address, base).href };
}

/** Return {ort, session, engine, addresses} for a model; `kind` is "webgpu" or "wasm". */
export async function openSession(runtime, kind, model, threads) {
  const { module, binary } = runtime.kinds[kind];
  const [code, wasm] = await Promise.all([module, binary].map((name) => getFile(runtime, name)));
  const blob = new Blob([code], { type: "text/javascript" });
  const ort = await import(URL.createObjectURL(blob)); // its threads need the address, too
  ort.env.logLevel = "error";
  ort.env.wasm.wasmBinary = wasm;
  ort.env.wasm.numThreads = countThreads(threads);
  const session = await ort.InferenceSession.create(model, { executionProviders: [kind] });
  const count = ort.env.wasm.numThreads;
  const cpu = `WASM SIMD, ${count === 1 ? "1 thread" : `${count} threads`}`;
  const addresses = [module, binary].map((name) => runtime.address + name);
  return { ort, session, engine: kind === "webgpu" ? "WebGPU" : cpu, addresses };
}

async function getFile({ package: name, version, address, integrity }, file) {
  try {
    const response = await fetch(address + file, { integrity: integrity[file] });
    if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
    return await response.arrayBuffer();
  } catch (error) {
    const what = `${name} ${version} cannot be loaded: ${address + file} (${error.message})`;
    throw new Error(what, { cause: error });
  }
}

/** Threads share memory, which only cross-origin isolated pages have. */
function countThreads(wanted) {
  if (!globalThis.crossOriginIsolated) return 1;
  return wanted || Math.min(4, Math.ceil((globalThis.navigator?.hardwareConcurrency ?? 2) / 2));
}
