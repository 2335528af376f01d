// The page: images in, answers out. Labels are always set as text.
// No module: browsers load none from disk, where this has to say what to do.

const FROM_DISK =
  "Browsers do not let a page that is opened from disk read its model. In this folder run " +
  "\"python -m http.server\"; then open http://localhost:8000/.";
const NO_CAMERA = "Browsers give a camera to pages from https:// or localhost only.";
const SPEAK_EVERY = 2000; // milliseconds, of what a screen reader says about the camera

const at = (id) => document.getElementById(id);
const percent = (probability) => `${(100 * probability).toFixed(1)}%`;
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const shortly = (value) => (value < 1e-3 && value > 0 ? value.toExponential(1) : value.toPrecision(2));

let classifier, readImage;
let turn = 0; // of the newest image: answers to older ones are not shown
let spoken = { label: "", time: -SPEAK_EVERY };

function say(text, { error = false } = {}) {
  at("status").textContent = text;
  at("status").classList.toggle("error", error);
  if (error) speak(text);
}

function speak(text) {
  at("spoken").textContent = text;
}

function row({ id, label, probability }) {
  const item = document.createElement("li");
  Object.assign(item.dataset, { id, probability });
  const parts = ["name", "number", "bar"].map((name) => {
    const part = document.createElement("span");
    part.className = name;
    return part;
  });
  const [name, number, bar] = parts;
  name.textContent = label;
  name.dir = "auto";
  number.textContent = percent(probability);
  bar.append(document.createElement("span"));
  bar.firstChild.style.width = percent(probability);
  item.append(...parts);
  return item;
}

function show({ top, label, answered, reason, milliseconds: { network, prepare } }) {
  at("label").textContent = label;
  at("label").dir = "auto";
  at("label").classList.toggle("none", !answered);
  at("label").hidden = false;
  at("unknown").textContent = answered ? "" : `${capital(reason)}. The best guesses:`;
  at("unknown").hidden = answered;
  at("answer").classList.toggle("guesses", !answered);
  at("answer").replaceChildren(...top.map(row));
  say(`${network.toFixed(1)} ms for the network, ${prepare.toFixed(1)} ms to prepare the image`);
  return answered ? `${label}, ${percent(top[0].probability)}` : `${label}: ${reason}`;
}

/** Show no answer, or what to do first. */
function clear({ invite = false } = {}) {
  at("answer").replaceChildren();
  at("label").textContent = invite ? "What is it?" : "";
  at("label").classList.toggle("none", invite);
  at("unknown").textContent = invite ? "Drop, paste or choose an image, or use the camera." : "";
  at("label").hidden = at("unknown").hidden = !invite;
}

function fill(shown) {
  at("stage").className = shown.includes("empty") ? "" : "filled";
  for (const id of ["empty", "image", "video", "rate"]) at(id).hidden = !shown.includes(id);
}

async function answer(blob) {
  stopCamera();
  const mine = ++turn;
  clear();
  say("Looking …");
  try {
    const pixels = await readImage(blob);
    if (mine !== turn) return;
    URL.revokeObjectURL(at("image").src);
    at("image").src = URL.createObjectURL(blob);
    fill(["image"]);
    at("stage").classList.toggle("small", Math.max(pixels.width, pixels.height) <= 128);
    const found = await classifier.classify(pixels);
    if (mine === turn) speak(show(found));
  } catch (error) {
    if (mine !== turn) return;
    say(`This image cannot be used: ${error.message}`, { error: true });
  }
}

function takeFirst(transfer, otherwise) {
  const file = Array.from(transfer?.files ?? []).find(({ type }) => type.startsWith("image/"));
  if (file) answer(file);
  else say(otherwise, { error: true });
}

// The camera

let asking = false; // for the camera; a button that is disabled would lose the keyboard's focus

async function askForCamera() {
  asking = true;
  try {
    const wanted = { facingMode: "environment", width: { ideal: 640 }, height: { ideal: 480 } };
    return await navigator.mediaDevices.getUserMedia({ video: wanted });
  } finally {
    asking = false;
  }
}

async function useCamera() {
  if (asking) return; // a second stream would have no button to stop it
  if (at("video").srcObject) return stopCamera();
  if (!navigator.mediaDevices) return say(NO_CAMERA, { error: true });
  try {
    const stream = await askForCamera();
    const mine = ++turn;
    at("video").srcObject = stream;
    stream.getTracks()[0].addEventListener("ended", stopCamera);
    await at("video").play();
    at("camera").textContent = "Stop camera";
    clear();
    say("Looking …");
    fill(["video", "rate"]);
    await watch(at("video"), mine);
  } catch (error) {
    stopCamera();
    say(`The camera cannot be used: ${error.message}`, { error: true });
  }
}

async function watch(video, mine) {
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const times = [];
  for (;;) {
    await nextFrame(video);
    if (mine !== turn) return;
    const { videoWidth: width, videoHeight: height } = video;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    context.drawImage(video, 0, 0);
    const found = await classifier.classify(context.getImageData(0, 0, width, height));
    if (mine !== turn) return;
    const text = show(found);
    const now = performance.now();
    times.push(now);
    while (times[0] < now - 1000) times.shift();
    at("rate").textContent = `${times.length} frames per second`;
    if (found.label !== spoken.label && now - spoken.time > SPEAK_EVERY) {
      spoken = { label: found.label, time: now };
      speak(text);
    }
  }
}

function nextFrame(video) {
  const wait = video.requestVideoFrameCallback ? video : globalThis;
  return new Promise((then) => (wait.requestVideoFrameCallback ?? wait.requestAnimationFrame).call(wait, then));
}

function stopCamera() {
  const stream = at("video").srcObject;
  if (!stream) return;
  turn++;
  stream.getTracks().forEach((track) => track.stop());
  at("video").srcObject = null;
  at("camera").textContent = "Use camera";
  fill(["empty"]);
  clear({ invite: true });
  say("Ready.");
}

// Beginning

function introduce({ contract, engine, verdict }, size) {
  const { arch, precision, classes } = contract;
  document.title = `${arch.name}: ${classes.length} classes`;
  const pixels = size(arch).join(" × ");
  at("about").textContent = `${arch.name}, ${classes.length} classes. Images stay in this browser.`;
  at("facts").textContent = `${pixels} pixels, ${precision}, ${engine}`;
  const { agrees, largest, same, images } = verdict;
  const [yes, most] = [agrees ? "yes" : "NO", `max difference ${shortly(largest)}`];
  const classed = same < images || !agrees ? `, the same class for ${same} of ${images}` : "";
  at("badge").textContent = `Answers as the trained network: ${yes}, ${most}${classed}`;
  at("badge").classList.toggle("wrong", !agrees);
  at("badge").hidden = false;
  const [summary, list] = at("known").children;
  summary.textContent = `The ${classes.length} classes`;
  list.replaceChildren(
    ...classes.map(({ name }) => {
      const item = document.createElement("li");
      item.textContent = name;
      item.dir = "auto";
      return item;
    }),
  );
  at("known").hidden = false;
}

function listen() {
  at("choose").addEventListener("click", () => at("file").click());
  at("file").addEventListener("change", () => {
    if (at("file").files.length) answer(at("file").files[0]);
    at("file").value = ""; // the same file again is a change, too
  });
  at("camera").addEventListener("click", useCamera);
  addEventListener("paste", (event) => {
    takeFirst(event.clipboardData, "There is no image on the clipboard.");
  });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    at("stage").classList.add("over");
  });
  addEventListener("dragleave", ({ relatedTarget }) => {
    if (!relatedTarget) at("stage").classList.remove("over");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    at("stage").classList.remove("over");
    takeFirst(event.dataTransfer, "This is no image file.");
  });
  for (const id of ["choose", "camera"]) at(id).disabled = false;
}

/** Keep all that the page has loaded, so that it works without a network from now on. */
async function keep({ contract: { model }, addresses }) {
  if (!navigator.serviceWorker) return;
  await navigator.serviceWorker.register("sw.js");
  const own = ["index.html", "page.css", "page.js", "mobilette.js", "runtime.js", "golden.js"];
  const data = ["runtime.json", "contract.json", "golden.npz", model];
  const cache = await caches.open(new URL("./", location.href).href);
  for (const address of addresses) {
    if (!(await cache.match(address))) await cache.add(new Request(address, { mode: "cors" }));
  }
  const here = new URL(location.pathname, location.href).href;
  await cache.addAll([here, ...own, ...data]);
  await navigator.serviceWorker.ready;
  at("facts").textContent += "; also works without a network now";
}

async function begin() {
  try {
    const module = await import("./mobilette.js");
    readImage = module.readImage;
    const asked = new URLSearchParams(location.search);
    classifier = await module.load("./", { engine: asked.get("engine") ?? "auto" });
    introduce(classifier, module.size);
    listen();
    clear({ invite: true });
    say("Ready.");
    const given = asked.get("image");
    if (given !== null) {
      const response = await fetch(given);
      if (!response.ok) throw new Error(`${given}: ${response.status} ${response.statusText}`);
      await answer(await response.blob());
    }
  } catch (error) {
    say(location.protocol === "file:" ? FROM_DISK : error.message, { error: true });
  }
  // A browser that does not keep the page, in a private window for one, still shows it.
  if (classifier) keep(classifier).catch((error) => console.info(`Not kept: ${error.message}`));
}

begin();
