// Keeps the page, so that it opens without the server: conversations can then be read, searched and exported.
// It answers for the page's own files only; a request to the model always goes to the server.

const CACHE = "chatsmith-" + "VERSION";
const FILES = ["FILES"];
const ADDRESSES = new Set(FILES.map((file) => new URL(file, self.registration.scope).href));

self.addEventListener("install", (event) => {
  event.waitUntil(
    caches
      .open(CACHE)
      .then((cache) => cache.addAll(FILES.map((file) => new Request(file, { cache: "no-cache" }))))
      .then(() => self.skipWaiting()),
  );
});

self.addEventListener("activate", (event) => {
  event.waitUntil(
    caches
      .keys()
      .then((names) => names.filter((name) => name.startsWith("chatsmith-") && name !== CACHE))
      .then((stale) => Promise.all(stale.map((name) => caches.delete(name))))
      .then(() => self.clients.claim()),
  );
});

self.addEventListener("fetch", (event) => {
  const address = new URL(event.request.url);
  address.hash = address.search = "";
  if (event.request.method !== "GET" || !ADDRESSES.has(address.href)) {
    return;
  }
  // Files under assets/ carry a hash in their name and never change; the others may, with a newer chatsmith.
  const isFixed = address.pathname.includes("/assets/");
  event.respondWith(isFixed ? fromCache(address.href, event.request) : fromServer(address.href, event.request));
});

async function fromCache(address, request) {
  return (await caches.match(address)) ?? fetch(request);
}

async function fromServer(address, request) {
  try {
    return await fetch(request);
  } catch (error) {
    const kept = await caches.match(address);
    if (kept) return kept;
    throw error;
  }
}
