// Answers from the network and, where there is none, with what the page has kept.
//
// The page's own files get the headers that isolate it, so that WASM may use threads from the
// second visit on.

const KEPT = self.registration.scope;
const RUNTIME = /\/onnxruntime-web[@-][0-9.]+\//; // never changes: its version is in its address
const ISOLATED = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("fetch", (event) => {
  if (event.request.method === "GET") event.respondWith(answer(event.request));
});

async function answer(request) {
  const cache = await caches.open(KEPT);
  const kept = () => cache.match(request, { ignoreSearch: true });
  const runtime = RUNTIME.test(request.url) && (await kept());
  if (runtime) return isolated(request, runtime);
  try {
    return isolated(request, await fetch(request));
  } catch (error) {
    const response = await kept();
    if (!response) throw error;
    return isolated(request, response);
  }
}

function isolated(request, response) {
  const own = new URL(request.url).origin === self.location.origin;
  if (!own || response.status !== 200 || response.redirected) return response;
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(ISOLATED)) headers.set(name, value);
  return new Response(response.body, { status: 200, headers });
}
