import { readdirSync, readFileSync } from "node:fs";
import { createHash } from "node:crypto";
import { join, relative } from "node:path";
import type { Plugin } from "vite";
import { defineConfig } from "vitest/config";

const OUT = join(import.meta.dirname, "../chatsmith/serve/static");

/** KaTeX offers each font in three formats; every browser that can show this page reads the first. */
function onlyWoff2(): Plugin {
  return {
    name: "only-woff2",
    enforce: "pre",
    transform(code, id) {
      return id.includes("katex") && id.includes(".css")
        ? code.replace(/,url\([^)]+\.(?:woff|ttf)\) format\("[^"]+"\)/g, "")
        : undefined;
    },
  };
}

/** Tells the service worker, once all else is written, which files make up the page. */
function listFilesForServiceWorker(): Plugin {
  return {
    name: "list-files-for-service-worker",
    apply: "build",
    writeBundle: {
      order: "post",
      sequential: true,
      async handler() {
        const files = readdirSync(OUT, { recursive: true, withFileTypes: true })
          .filter((entry) => entry.isFile())
          .map((entry) => relative(OUT, join(entry.parentPath, entry.name)))
          .filter((name) => name !== "service-worker.js")
          .sort();
        const hash = createHash("sha256");
        for (const name of files) {
          hash.update(name).update(readFileSync(join(OUT, name)));
        }
        const worker = join(OUT, "service-worker.js");
        const { writeFileSync } = await import("node:fs");
        const source = readFileSync(worker, "utf8");
        writeFileSync(
          worker,
          source
            .replace('"VERSION"', JSON.stringify(hash.digest("hex").slice(0, 12)))
            .replace('["FILES"]', JSON.stringify(files.map((name) => (name === "index.html" ? "./" : name)))),
        );
      },
    },
  };
}

/**
 * The chat; with `--mode runs`, after it, the training page. Built apart, they share no files: the chat loads nothing more
 * for it, and keeps nothing of it for offline.
 */
export default defineConfig(({ command, mode }) => ({
  base: "./",
  logLevel: command === "build" ? "warn" : "info",
  publicDir: mode === "runs" ? false : "public",
  plugins: mode === "runs" ? [] : [onlyWoff2(), listFilesForServiceWorker()],
  build: {
    outDir: OUT,
    emptyOutDir: mode !== "runs",
    target: ["chrome123", "firefox128", "safari18"],
    assetsInlineLimit: 0,
    rollupOptions: { input: mode === "runs" ? "runs.html" : "index.html" },
  },
  server: { proxy: Object.fromEntries(["/v1", "/tokenize", "/detokenize", "/runs/"].map((path) => [path, "http://127.0.0.1:8000"])) },
  test: { include: ["tests/**/*.test.ts"], setupFiles: ["tests/setup.ts"], testTimeout: 60_000 },
}));
